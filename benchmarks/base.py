"""How good is the full model, and what of it is left after pruning? Candidates, each by the options it changes, one training run each.

    .venv/bin/python benchmarks/base.py configs/openmoji.yaml --workdir base "" "train.weighting=uniform" "removal.pruning.ratio=0.3"

FID of the base model's images and of the pruned and re-tuned model's, against all training images, and what each took. Through the store,
so what was made before costs nothing.
"""

import argparse
from pathlib import Path

import torch

from apportion.config import load
from apportion.diffusion.compute import prepare
from apportion.properties import reference
from apportion.properties.measure import measure
from apportion.stages import networks, plan, prune, train
from apportion.stages.generated import load_samples
from apportion.stages.models import generate, load_model
from apportion.stages.round import Round, reference_key, weights_key
from apportion.stages.spent import Spent


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("config", type=Path)
    told.add_argument("candidates", nargs="*", default=[""], metavar="'key=value …'")
    told.add_argument("--workdir", type=Path, required=True)
    asked = told.parse_intermixed_args()
    for candidate in asked.candidates:
        config = load(asked.config, [*candidate.split(), "tracking.uri=null"], asked.workdir)
        round = Round.open(plan.run(config).round_uri)
        train.run(round.uri)
        prune.run(round.uri)
        images, _ = load_samples(round.store, train.base_samples_key(round))
        base, pruned = (spent(round, address) for address in (round.plan.base, round.plan.pruned))
        print(
            f"{candidate or 'as configured':<50} base FID {fid(round, torch.from_numpy(images)):6.2f} after {base.finetune:5.0f} s"
            f"   pruned {fid(round, pruned_images(round)):6.2f} after {pruned.finetune:5.0f} s more",
            flush=True,
        )


def spent(round: Round, address: str | None) -> Spent:
    key = weights_key(str(address))
    return Spent.read(round.store.get(key), round.store.where(key))


def pruned_images(round: Round) -> torch.Tensor:
    """From the noise of the base model's images."""
    compute = prepare(round.config.compute.device, round.credit_game.recipe.precision, round.config.compute.base_threads)
    unet, _ = load_model(round.store, weights_key(str(round.plan.pruned)), compute)
    return torch.from_numpy(generate(unet, round.config, round.config.seed, compute)[0])


def fid(round: Round, images: torch.Tensor) -> float:
    key = reference_key(round.plan.reference)
    against = reference.load(round.store.get(key), round.store.where(key))
    return measure(["fid"], images, networks.of(round), against)["fid"]


if __name__ == "__main__":
    main()
