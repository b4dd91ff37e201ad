"""Games of six contributors that are known, cheap and by retraining, and what a round's plan and ledger hold of them."""

import hashlib

import numpy as np

WORTH = {"fid": [-5.0, -1.0, 2.0, 0.3, -2.5, -0.7], "inception_score": [0.1, 0.7, 0.2, 1.6, 0.9, 0.4]}


def noise(mask, seed, salt):
    """As good as random, the same for the same coalition, seed and salt; from -1 to 1."""
    text = f"{mask.astype(int).tolist()} {seed} {salt}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4]) / 2**31 - 1


def cheap(mask, name, seed):
    a, b, c, *_ = mask.astype(float)
    return 60 + float(mask @ WORTH[name]) + 0.6 * a * b - 0.4 * b * c + 0.05 * noise(mask, seed, name)


def like(mask, name, seed):
    """Retraining that the cheap game tells much of, on another scale."""
    return 20 + 1.5 * cheap(mask, name, seed) + 0.05 * noise(mask, seed, "retrained")


def unlike(mask, name, seed):
    """Inception score by retraining has nothing to do with the cheap game's."""
    return like(mask, name, seed) if name == "fid" else noise(mask, 0, "other")


def of(round, name, method):
    return [c for c in round.credits.credits if (c.property, c.method) == (name, method)]


def seen(round, name, purpose):
    """Coalitions and values of a purpose, from the plan and the ledger."""
    pairs = [(item, round.ledger.read(item)) for item in round.plan.wanted if item.purpose == purpose]
    return np.array([item.mask(round.manifest.n) for item, _ in pairs]), np.array([found.values[name] for _, found in pairs])


def ends(round, name, prefix=""):
    """Values (seeds,) of nobody and of everybody."""
    return [seen(round, name, f"{prefix}{end}")[1] for end in ("v0", "v1")]
