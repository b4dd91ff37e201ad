"""Kubeflow components, one file per stage: each body is one call of the library."""
