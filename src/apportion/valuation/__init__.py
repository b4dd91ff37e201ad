"""From noisy coalition values to credits: designs, estimators, intervals. Pure functions on numpy arrays."""
