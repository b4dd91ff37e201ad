"""What images are sampled from: one model, or several models whose predictions are averaged; and the
conditions (labels or captions) that images are drawn for."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Sampler:
    """Models and the weights of their predictions, which sum to one. conditions: labels or captions that
    images are drawn for, in turn; empty for models without a condition."""

    models: tuple[nn.Module, ...]
    weights: tuple[float, ...] = (1.0,)
    conditions: tuple[str, ...] = ()

    def predict(self, call: Callable[[nn.Module], torch.Tensor]) -> torch.Tensor:
        """The weighted mean of what `call` gives for each model."""
        if len(self.models) == 1:
            return call(self.models[0])
        predictions = [weight * call(model) for model, weight in zip(self.models, self.weights, strict=True)]
        return torch.stack(predictions).sum(dim=0)


def averaged(models: Sequence[nn.Module], weights: Sequence[float]) -> nn.Module:
    """One model whose weights are the weighted mean of those of models of one architecture.

    Raises ValueError where the models are not of one architecture.
    """
    if len(models) == 1:
        return models[0]
    states = [model.state_dict() for model in models]
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            f"found {len(models)} models of different architectures, expected one architecture: weights of "
            "several cannot be averaged (`average` of the mixture)"
        )
    mean = {}
    for name, first in states[0].items():
        if first.is_floating_point():
            terms = [weight * state[name] for state, weight in zip(states, weights, strict=True)]
            mean[name] = torch.stack(terms).sum(dim=0)
        else:
            mean[name] = first
    model = copy.deepcopy(models[0])
    model.load_state_dict(mean)
    return model
