"""The image that components name where no cluster is configured, as in local runs, which start no container.
On a cluster the options `cluster.images` name the image of each stage."""

IMAGE = "python"
"""KFP's local runner warns of an image whose name does not contain this word."""
