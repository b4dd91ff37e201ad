"""How far credits can be relied on: linear datamodelling score, faithfulness of the removal method,
counterfactual removal (docs/methods.md, "Evaluation")."""
