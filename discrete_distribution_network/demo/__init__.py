"""The page to play with, `ddn demo`.

`walking.py` is what its first tab does, `page.py` the page, `launch.py` its server, `guard.py` what that lets in, and
`files.py` what it keeps.
"""

import os

from discrete_distribution_network.demo.files import own_folder

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # the page works offline, and tells nobody
own_folder()  # gradio asks for it when it is imported
