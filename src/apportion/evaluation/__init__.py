"""Is a credit true? Linear datamodelling score, faithfulness of the cheap game, counterfactual removal."""
