"""The image that components name when nobody else does, as in local runs, which run none; on a cluster `cluster.images` says."""

IMAGE = "python"
"""KFP's local runner warns of an image whose name does not contain this word."""
