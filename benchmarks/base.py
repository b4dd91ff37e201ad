"""How good is the base model, and how good is it after pruning? Each candidate changes some options of a
configuration.

    .venv/bin/python benchmarks/base.py configs/openmoji.yaml --workdir base \\
        "" "train.weighting=uniform" "removal.pruning.ratio=0.3"

Every candidate is trained once. Printed are the FID of the images of the base model and of the pruned and
re-tuned model, each against all training images, and the seconds that training took. Results are kept in the
store of the work folder, so a model that was trained before is not trained again.
"""

import argparse
from pathlib import Path

from apportion.config.loading import load
from apportion.diffusion.compute import prepare
from apportion.diffusion.sampler import Sampler
from apportion.rounds.models import generate, load_model
from apportion.rounds.round import Round
from apportion.stages import plan, prune, train
from apportion.stages.score import Scorer
from apportion.store.layout import weights_key


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument(
        "candidates",
        nargs="*",
        default=[""],
        metavar="'key=value …'",
        help="options that a candidate changes; an empty text changes none",
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder for everything that is made")
    arguments = parser.parse_intermixed_args()
    for candidate in arguments.candidates:
        config = load(arguments.config, [*candidate.split(), "tracking.uri=null"], arguments.workdir)
        if "fid" not in config.properties:
            parser.error(f"found properties {', '.join(config.properties)}, expected fid among them")
        show(candidate or "as configured", Round.open(plan.run(config).round_uri))


def show(candidate: str, this_round: Round) -> None:
    train.run(this_round.uri)
    prune.run(this_round.uri)
    base = this_round.plan.base
    fid, seconds = fid_of(this_round, base.id)
    line = f"{candidate:<50} base FID {fid:6.2f} after {seconds:5.0f} s"
    start = this_round.game("credit").recipe.start
    if start is not None and start.pruning is not None:
        fid, seconds = fid_of(this_round, start.id)
        line += f"   pruned {fid:6.2f} after {seconds:5.0f} s more"
    print(line, flush=True)


def fid_of(this_round: Round, weights: str) -> tuple[float, float]:
    """FID of the images of the model whose weights have this address, and the seconds that its training took.
    The images of all models start from the same noise."""
    game, options, store = this_round.game("credit"), this_round.config.compute, this_round.store
    compute = prepare(options.device, game.recipe.precision, options.base_threads)
    model, cost = load_model(store, game.recipe, weights_key(weights), compute)
    seed = this_round.config.seed
    images, _ = generate(game.recipe, Sampler((model,)), game.sampling, seed, compute)
    scorer = Scorer(store, prepare(options.device, "fp32", options.base_threads))
    return scorer.values(game, images)["fid"], cost.finetune


if __name__ == "__main__":
    main()
