"""The interactive page of `ddn demo`.

`page` serves it, `tabs` lays it out, `handlers` answers its events (`walking` and `uploads` help), `launch` is the
server, `guard` limits its requests, and `files` the space on disk.
"""

import os

from discrete_distribution_network.demo.files import own_folder

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # the page works offline, and sends no statistics
own_folder()  # gradio asks for it when it is imported
