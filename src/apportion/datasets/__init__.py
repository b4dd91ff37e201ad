"""Training images and who gave them."""
