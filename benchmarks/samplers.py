"""How good are images by sampler and steps, and what would make sampling faster?

    .venv/bin/python benchmarks/samplers.py ROUND_URI        # two minutes on one core
    .venv/bin/python benchmarks/samplers.py speed ROUND_URI  # three minutes, one of them for torch.compile

The first command samples a round's base model by each sampler and measures the round's properties, as means
over seeds. The second needs a round whose experts are averaged, in its store. It gives the time per image of
a coalition of experts, as the round samples it and with each change, and how far the images then differ; and
the time of loading the experts of the grand coalition and of averaging them.

Everything runs in one thread of the CPU, and times are processor seconds, so that other work on the machine
changes them less. The changes take turns, and the median over turns is printed.
"""

import argparse
import copy
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

import numpy as np
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from safetensors import safe_open
from torch import nn
from torch.func import functional_call, stack_module_state

from apportion.config.sampling import Sampling
from apportion.diffusion.compute import Compute, prepare
from apportion.diffusion.ddpm.sample import SAMPLERS, dpm_solver, initial_noise, sample
from apportion.diffusion.sampler import Sampler, averaged
from apportion.rounds.models import SharedModels, generate, load_model, load_sampler
from apportion.rounds.round import Round
from apportion.stages.score import Scorer
from apportion.store.layout import weights_key

T = TypeVar("T")

SPACINGS: dict[str, dict[str, bool]] = {
    "": {},
    "even log-SNR": {"use_lu_lambdas": True},  # Lu et al. 2022
    "Karras": {"use_karras_sigmas": True},  # Karras et al. 2022
}
"""How the timesteps of DPM-Solver++ are spaced; without a name, as `sampling.sampler` does it."""

CASES = (
    *(("ddim", steps, "") for steps in (10, 5, 20)),
    *(("dpm_solver", steps, "") for steps in (4, 5, 6, 8, 10, 15)),
    *(("dpm_solver", steps, spacing) for spacing in ("even log-SNR", "Karras") for steps in (5, 6, 8)),
)
"""Sampler, steps and spacing. Times are relative to the first."""

BATCHES = (40, 80, 160)
STACKED = (2, 4)
"""How many coalitions are sampled in one batch."""

SEED = 7
"""Of the noise that images start from in `speed`."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("values", "speed"), default="values")
    parser.add_argument("round_uri", help="the round's address, as plan prints it")
    parser.add_argument("--repeats", type=int, default=3, help="seeds of each sampler, or turns of `speed`")
    arguments = parser.parse_intermixed_args()
    this_round = Round.open(arguments.round_uri)
    if arguments.what == "values":
        show_values(this_round, arguments.repeats)
        return
    grand = next(wanted for wanted in this_round.plan.wanted if wanted.purpose == "v1")
    mixture = this_round.mixture(grand)
    if len(mixture.parts) < 2 or mixture.average != "weights":
        parser.error(
            f"found removal method {this_round.config.removal.method}, which does not average weights, "
            "expected experts (removal.method)"
        )
    show_speed(this_round, arguments.repeats)
    show_averaging(this_round, arguments.repeats)


def show_values(this_round: Round, seeds: int) -> None:
    """One line for each of CASES: the time and the properties of the base model's images."""
    game, base = this_round.game("credit"), this_round.plan.base
    compute = prepare("cpu", base.recipe.precision, 1)
    model, _ = load_model(this_round.store, base.recipe, weights_key(base.id), compute)
    scorer = Scorer(this_round.store, prepare("cpu", "fp32", 1))
    names = [item.property for item in game.properties]
    print(f"{'sampler, steps':<28}{'time':>6}" + "".join(f"{name:>19}" for name in names))
    first = None
    for name, steps, spacing in CASES:
        sampling = game.sampling.model_copy(update={"sampler": name, "steps": steps})
        seconds, rows = 0.0, []
        with spaced(spacing):
            for seed in range(seeds):
                (images, _), spent = timed(
                    partial(generate, base.recipe, Sampler((model,)), sampling, seed, compute)
                )
                seconds += spent
                rows.append(scorer.values(game, images))
        first = first or seconds
        means = [float(np.mean([row[name] for row in rows])) for name in names]
        label = f"{name}, {steps}" + (f", {spacing}" if spacing else "")
        print(f"{label:<28}{seconds / first:6.2f}" + "".join(f"{mean:19.2f}" for mean in means), flush=True)


def spaced(spacing: str) -> AbstractContextManager[Any]:
    """A context in which `dpm_solver` spaces its timesteps in another way."""
    if not spacing:
        return nullcontext()

    def scheduler() -> DPMSolverMultistepScheduler:
        return DPMSolverMultistepScheduler.from_config(dpm_solver().config, **SPACINGS[spacing])

    return patch.dict(SAMPLERS, dpm_solver=scheduler)


class Variant(NamedTuple):
    """A way to sample. images: makes uint8 (coalitions × images, 3, side, side)."""

    images: Callable[[], torch.Tensor]
    coalitions: int = 1


def show_speed(this_round: Round, turns: int) -> None:
    """One line for each way to sample: the time per image, and how far its images are from those as the round
    samples them."""
    game = this_round.game("credit")
    sampling, compute = game.sampling, prepare("cpu", game.recipe.precision, 1)
    models = coalitions(this_round, compute, max(STACKED))
    model = models[0]

    def sampled(model: nn.Module, sampling: Sampling = sampling) -> torch.Tensor:
        return sample(Sampler((model,)), sampling, SEED, compute)

    last = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plain = f"as configured, batches of {sampling.batch}"
    variants = {plain: Variant(partial(sampled, model))}
    for batch in BATCHES:
        if batch != sampling.batch:
            other = sampling.model_copy(update={"batch": batch})
            variants[f"batches of {batch}"] = Variant(partial(sampled, model, other))
    variants["channels_last"] = Variant(partial(sampled, last))
    for count in STACKED:
        images = partial(stacked, models[:count], sampling, compute)
        variants[f"{count} coalitions in one batch"] = Variant(images, count)
    if (compiled := compiled_model(models[:2], sampled)) is not None:
        variants["torch.compile"] = Variant(partial(sampled, compiled))
    truth = torch.cat([sampled(each) for each in models])
    measured: dict[str, list[float]] = {name: [] for name in variants}
    differences = {}
    for _ in range(turns):
        for name, variant in variants.items():
            made, seconds = timed(variant.images)
            measured[name].append(1e3 * seconds / len(made))
            differences[name] = difference(made, truth[: len(made)])
    first = float(np.median(measured[plain]))
    for name, times in measured.items():
        per_image = float(np.median(times))
        print(f"{name:<36}{per_image:7.2f} ms an image {per_image / first:6.2f}   {differences[name]}")


def coalitions(this_round: Round, compute: Compute, count: int) -> list[nn.Module]:
    """The models of the first coalitions of the design."""
    design = [wanted for wanted in this_round.plan.wanted if wanted.purpose == "design"][:count]
    shared = SharedModels(this_round, compute)
    return [load_sampler(this_round, wanted, compute, shared)[0].models[0] for wanted in design]


def compiled_model(
    models: Sequence[nn.Module], sampled: Callable[[nn.Module], torch.Tensor]
) -> nn.Module | None:
    """The first of the models, compiled; None where compilation fails. Printed is the time of the first
    images of each. Nothing that was compiled before is reused, and compilation has one process at a time."""
    compiled: list[Any] = [torch.compile(copy.deepcopy(model)) for model in models]
    spent = []
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=folder),
        torch._inductor.config.patch(compile_threads=1),
    ):
        for model in compiled:
            processor, clock = sum(os.times()[:4]), time.perf_counter()
            try:
                sampled(model)
            except torch._dynamo.exc.TorchDynamoException as error:
                print(f"torch.compile is not available here: {str(error).splitlines()[0]}")
                return None
            # With those of the C++ compiler, which is another process.
            processor, clock = sum(os.times()[:4]) - processor, time.perf_counter() - clock
            spent.append(f"{processor:.1f} processor seconds, {clock:.1f} s by the clock")
    print("torch.compile, first images of each coalition: " + "; ".join(spent))
    return compiled[0]  # type: ignore[no-any-return]


@torch.inference_mode()
def stacked(models: Sequence[nn.Module], sampling: Sampling, compute: Compute) -> torch.Tensor:
    """The images of each model in turn, uint8 (models × images, 3, side, side), sampled together: a batch
    has the same images of all models, and the weights have a dimension of models."""
    parameters, buffers = stack_module_state(list(models))
    architecture: Any = copy.deepcopy(models[0]).to("meta")
    for module in architecture.modules():
        if isinstance(module, nn.GroupNorm):
            # vmap has no group_norm of what is contiguous in another order, such as the result of attention.
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))

    def noise_of_one(parameters: Any, buffers: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        noise: torch.Tensor = functional_call(architecture, (parameters, buffers), (x, t))[0]
        return noise

    def predicted_noise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        with compute.autocast():
            noise: torch.Tensor = of_all(parameters, buffers, x.reshape(len(models), -1, *x.shape[1:]), t)
        return noise.float().flatten(0, 1)

    of_all = torch.vmap(noise_of_one, in_dims=(0, 0, 0, None))
    side, channels = architecture.config.sample_size, architecture.config.in_channels
    images = []
    for index in torch.split(torch.arange(sampling.images), sampling.batch):
        scheduler = SAMPLERS[sampling.sampler]()
        scheduler.set_timesteps(sampling.steps)
        x = initial_noise(side, channels, SEED, index).repeat(len(models), 1, 1, 1)
        for t in scheduler.timesteps:
            x = scheduler.step(predicted_noise(x, t), t, x, return_dict=False)[0]
        pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        images.append(pixels.reshape(len(models), -1, *pixels.shape[1:]))
    return torch.cat(images, dim=1).flatten(0, 1)


def show_averaging(this_round: Round, turns: int) -> None:
    """The time of loading the experts of the grand coalition and of averaging them: as a round does it, which
    loads an expert once for all coalitions of a process; and from files that are mapped into memory."""
    grand = next(wanted for wanted in this_round.plan.wanted if wanted.purpose == "v1")
    recipe, keys = this_round.games[grand.game].recipe, this_round.weights_keys(grand)
    weights = [part.weight for part in this_round.mixture(grand).parts]
    compute = prepare("cpu", recipe.precision, 1)

    def loaded() -> list[nn.Module]:
        return [load_model(this_round.store, recipe, key, compute)[0] for key in keys]

    def from_files() -> nn.Module:
        model, _ = load_model(this_round.store, recipe, keys[0], compute)
        model.load_state_dict(mapped_mean(files, weights))
        return model

    times: dict[str, list[float]] = {"load": [], "average": [], "load and average, mapped": []}
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, str(i)) for i in range(len(keys))]
        for file, key in zip(files, keys, strict=True):
            file.write_bytes(this_round.store.get(key))
        for _ in range(turns):
            models, load = timed(loaded)
            mean, average = timed(partial(averaged, models, weights))
            other, mapped = timed(from_files)
            for seconds, each in zip((load, average, mapped), times.values(), strict=True):
                each.append(seconds)
    for name, each in times.items():
        print(f"{name} {len(keys)} experts".ljust(36) + f"{1e3 * float(np.median(each)):7.0f} ms")
    states = mean.state_dict(), other.state_dict()
    equal = all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    print(f"the means are {'equal' if equal else 'not equal'}")


def mapped_mean(files: Sequence[Path], weights: Sequence[float]) -> dict[str, torch.Tensor]:
    """The weighted mean of the tensors of safetensors files, each mapped into memory. Unlike the store, it
    verifies no checksums."""
    means: dict[str, torch.Tensor] = {}
    for file, weight in zip(files, weights, strict=True):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                tensor = tensors.get_tensor(name)
                if name in means:
                    means[name].add_(tensor, alpha=weight)
                else:
                    means[name] = tensor * weight
    return means


def timed(make: Callable[[], T]) -> tuple[T, float]:
    """What `make` gives, and its processor seconds."""
    start = time.process_time()
    return make(), time.process_time() - start


def difference(images: torch.Tensor, truth: torch.Tensor) -> str:
    """How far two arrays of uint8 images are apart."""
    apart = (images.int() - truth.int()).abs()
    if not apart.any():
        return "images equal"
    return f"{float((apart > 0).float().mean()):.4%} of bytes differ, by at most {int(apart.max())}"


if __name__ == "__main__":
    main()
