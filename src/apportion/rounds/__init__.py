"""An opened round, and what the stages share: its files, training data, models, images, networks and
costs."""
