"""Apportion: credits the contributors of a diffusion model's training data with Shapley values and honest intervals."""

__version__ = "0.1.0"
