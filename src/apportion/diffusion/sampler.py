"""What images are sampled from: one model, or several models whose predictions are averaged; and the
conditions (labels or captions) that images are drawn for."""

import copy
from collections.abc import Callable, Iterable, Sequence
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


def averaged(models: Iterable[nn.Module], weights: Sequence[float]) -> nn.Module:
    """One model whose weights are the weighted mean of those of models of one architecture and type of
    number. Models are read one at a time, and none is changed; numbers that are not weights, such as counts
    of batches, are those of the first model. The mean of one model with weight 1 is that model itself.

    Raises ValueError where the models are not of one architecture and type of number.
    """
    each = iter(models)
    first = next(each)
    if list(weights) == [1.0]:
        if next(each, None) is not None:
            raise ValueError("found more models than weights, expected one weight for each")
        return first
    state = first.state_dict()
    forms = {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}
    means = {name: tensor * weights[0] for name, tensor in state.items() if tensor.is_floating_point()}
    for model, weight in zip(each, weights[1:], strict=True):
        other = model.state_dict()
        if {name: (tensor.shape, tensor.dtype) for name, tensor in other.items()} != forms:
            raise ValueError(
                "found models of different architectures or types of numbers, expected one architecture and "
                "type: weights of several cannot be averaged (`average` of the mixture)"
            )
        for name, mean in means.items():
            mean.add_(other[name], alpha=weight)
    model = copy.deepcopy(first)
    model.load_state_dict({**state, **means})
    return model
