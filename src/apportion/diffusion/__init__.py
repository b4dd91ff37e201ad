"""Diffusion models: build, train, prune, remove contributors, sample."""
