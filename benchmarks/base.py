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
from apportion.properties.measure import measure
from apportion.stages import networks, plan, prune, score, train
from apportion.stages.models import generate, load_model
from apportion.stages.round import Round, weights_key


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
        (base, trained), (pruned, tuned) = (judged(round, str(address)) for address in (round.plan.base, round.plan.pruned))
        print(
            f"{candidate or 'as configured':<50} base FID {base:6.2f} after {trained:5.0f} s"
            f"   pruned {pruned:6.2f} after {tuned:5.0f} s more",
            flush=True,
        )


def judged(round: Round, address: str) -> tuple[float, float]:
    """FID of a stored model's images, from the same noise for every model, and the seconds of its training."""
    compute = prepare(round.config.compute.device, round.credit_game.recipe.precision, round.config.compute.base_threads)
    unet, cost = load_model(round.store, weights_key(address), compute)
    images, _ = generate(unet, round.config, round.config.seed, compute)
    return measure(["fid"], torch.from_numpy(images), networks.of(round), score.against(round))["fid"], cost.finetune


if __name__ == "__main__":
    main()
