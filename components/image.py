"""The image that every component runs in; releases set it by digest when they compile."""

import os

IMAGE = os.environ.get("APPORTION_IMAGE", "apportion/python-cpu:0.1.0")
