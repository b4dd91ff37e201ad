"""score: images to one ledger record per coalition, with the value of every property."""

import torch

from apportion.diffusion.compute import prepare
from apportion.progress import bar
from apportion.properties import PROPERTIES, reference
from apportion.properties.measure import measure
from apportion.records import Cost, Evaluation, Wanted
from apportion.stages import networks
from apportion.stages.generated import load_samples
from apportion.stages.round import Round, reference_key
from apportion.stages.spent import timed
from apportion.version import code


def run(round_uri: str, shard: int = 0) -> int:
    """Scores what has no record; returns how many records this call wrote."""
    round = Round.open(round_uri)
    return make(round, round.pending(shard), shard)


def make(round: Round, todo: list[Wanted], shard: int = 0) -> int:
    """As `run`, for coalitions of the caller's choice."""
    if not todo:
        return 0
    prepare("cpu", "fp32", round.config.compute.threads)
    names = [p.name for p in round.credit_game.properties]
    network = networks.of(round)
    measured_against = against(round) if any(PROPERTIES[name].needs_reference for name in names) else None
    made = 0
    with bar(len(todo), f"score {shard}", "coalition") as progress:
        for item in todo:
            images, spent = load_samples(round.store, round.samples_key(item))
            with timed() as clock:
                values = measure(names, torch.from_numpy(images), network, measured_against)
            cost = Cost(finetune=spent.finetune, sample=spent.sample, score=round_off(clock.seconds), device=spent.device)
            members = round.data(item)
            record = Evaluation(key=item.key, game=item.game, seed=item.seed, members=members, values=values, cost=cost, code=code())
            made += round.ledger.commit(record)
            progress.update()
    return made


def round_off(seconds: float) -> float:
    return float(f"{seconds:.3f}")


def against(round: Round) -> reference.Reference:
    """What the properties of a round are measured against, as `train` made it. Raises NotFound or Damaged."""
    key = reference_key(round.plan.reference)
    return reference.load(round.store.get(key), round.store.where(key))
