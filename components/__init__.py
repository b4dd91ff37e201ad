"""Kubeflow components, one file per stage, written by components/generate.py: each body is one call of the
library."""
