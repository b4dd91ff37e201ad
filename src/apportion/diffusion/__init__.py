"""Diffusion models: their families, training, removal of contributors, sampling."""
