"""The page to play with, `ddn demo`: `walking.py` is what its first tab does, `page.py` the page."""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # the page works offline, and tells nobody
