"""What fitting functions of coalition size beside the credits is worth where nobody's value lies off the scale.

    .venv/bin/python benchmarks/estimators.py

Random games with pairs and triples (tests/valuation/random_games.py), whose Shapley values are known; median relative error of
centred credits.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apportion.valuation.coalitions import draw, size_shares
from apportion.valuation.shapley import leverage

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "valuation"))
from random_games import game  # type: ignore[import-not-found]

Array = NDArray[np.float64]
CASES = [(12, 48, 0.5, off) for off in (0, 5, 20)] + [(20, 100, 0.1, 0), (20, 500, 0.1, 0), (20, 500, 0.1, 20)]


def plain(Z: NDArray[np.bool_], y: Array, v0: float, v1: float) -> Array:
    """Leverage SHAP as published: the constrained weighted fit and nothing beside it."""
    m, n = Z.shape
    size = Z.sum(axis=1)
    w = (size_shares("shapley_kernel", n, m) / np.maximum(size_shares("leverage", n, m), np.finfo(float).tiny))[size]
    U = Z - size[:, None] / n
    share = (v1 - v0) / n
    return np.asarray(share + np.linalg.pinv((U.T * w) @ U) @ (U.T @ (w * (y - v0 - size * share))))


def errors(n: int, m: int, noise: float, off: float, games: int = 150) -> tuple[float, float]:
    """Medians over games, of `plain` and of `leverage`; v0 lies `off` and the noise is `noise` standard deviations of v."""
    rng, found = np.random.default_rng(0), []
    for seed in range(games):
        played, Z = game(n, rng), draw("leverage", n, m, seed)
        v, (v0, v1) = played.value(Z), played.value([[0] * n, [1] * n])
        y, low = v + noise * v.std() * rng.normal(size=m), float(v0 - off * v.std())
        truth = centred(played.shapley())
        found.append([np.linalg.norm(centred(fit(Z, y, low, float(v1))) - truth) / np.linalg.norm(truth) for fit in (plain, leverage)])
    before, after = np.median(found, axis=0)
    return float(before), float(after)


def centred(phi: Array) -> Array:
    return phi - phi.mean()


def main() -> None:
    print("  n    m  noise  v0 off by   plain  leverage")
    for n, m, noise, off in CASES:
        before, after = errors(n, m, noise, off)
        print(f"{n:3} {m:4} {noise:6} {off:7} SD {before:8.3f} {after:9.3f}")


if __name__ == "__main__":
    main()
