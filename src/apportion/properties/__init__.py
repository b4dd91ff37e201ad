"""Images to numbers: the global properties of a generative model."""
