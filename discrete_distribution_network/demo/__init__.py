"""The page to play with, `ddn demo`: `walking.py` is what its first tab does, `page.py` the page."""
