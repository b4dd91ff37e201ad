"""Games with known values, and rounds of them."""

import hashlib

import numpy as np
from tiny import fill, planned

from apportion.rounds.round import Round
from apportion.stages import attribute, evaluate

# Six contributors: a game of a removal method, and two of retraining

WORTH = {
    "fid": [-5.0, -1.0, 2.0, 0.3, -2.5, -0.7],
    "inception_score": [0.1, 0.7, 0.2, 1.6, 0.9, 0.4],
}


def noise(mask, seed, salt):
    """A number from -1 to 1 that is as good as random, and the same for the same coalition, seed and salt."""
    text = f"{mask.astype(int).tolist()} {seed} {salt}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4]) / 2**31 - 1


def cheap(mask, name, seed):
    """The game of a removal method."""
    a, b, c, *_ = mask.astype(float)
    return 60 + float(mask @ WORTH[name]) + 0.6 * a * b - 0.4 * b * c + 0.05 * noise(mask, seed, name)


def alike(mask, name, seed):
    """Retraining that correlates with the game of the removal method, on another scale."""
    return 20 + 1.5 * cheap(mask, name, seed) + 0.05 * noise(mask, seed, "retrained")


def half_alike(mask, name, seed):
    """As `alike`, but the inception score of retraining does not depend on that of the removal method."""
    return alike(mask, name, seed) if name == "fid" else noise(mask, 0, "other")


def rows(this_round, name, purpose):
    """Coalitions (k, n) of a purpose and their values (k,), from the plan and the ledger."""
    wanted = [item for item in this_round.plan.wanted if item.purpose == purpose]
    masks = np.array([item.mask(this_round.manifest.n) for item in wanted])
    return masks, np.array([this_round.ledger.read(item).values[name] for item in wanted])


def endpoints(this_round, name, prefix=""):
    """Values (seeds,) of the empty and of the grand coalition."""
    return [rows(this_round, name, f"{prefix}{end}")[1] for end in ("v0", "v1")]


# A small round of four contributors with an additive game

SMALL = ("properties=[fid, inception_score]", "valuation.coalitions=14")
FOUR = {"fid": [-5.0, -1.0, 2.0, 0.3], "inception_score": [0.1, 0.7, 0.2, 1.6]}


def additive(mask, name, seed):
    return 30 + float(mask @ FOUR[name])


def judged(workdir, *overrides, value=additive):
    """A small round with everything but its publication."""
    this_round = planned(workdir, *SMALL, *overrides)
    fill(this_round, value)
    attribute.run(this_round.uri)
    fill(this_round, value)
    evaluate.run(this_round.uri)
    return Round.open(this_round.uri)
