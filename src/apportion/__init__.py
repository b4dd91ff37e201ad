"""Apportion credits the contributors of a diffusion model's training data with Shapley values and confidence
intervals."""

__version__ = "0.1.0"
