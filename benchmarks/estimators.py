"""The error of each estimator's credits on random games whose Shapley values are known.

    .venv/bin/python benchmarks/estimators.py                # the table, about ten minutes on one core
    .venv/bin/python benchmarks/estimators.py --harder       # the same with pairs and triples twice as strong
    .venv/bin/python benchmarks/estimators.py offscale speed

The error is the median over games of |centred credits - centred truth| / |centred truth|. The games are
additive with pairs and triples (`game` in tests/valuation/random_games.py). For 258 players they are additive
plus a quarter of n times the square root of the share of players. Noise is in standard deviations of the
value. `kernelshap` has the solver and the design of "An Efficient Framework for Crediting Data Contributors
of Diffusion Models" (ICLR 2025), here "the paper". The estimators of shapiq draw as many coalitions by their
own rules, from the same game with noise of the same size.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import shapiq
from numpy.typing import NDArray

from apportion.valuation.coalitions import draw, size_shares
from apportion.valuation.shapley import kernelshap, leverage, tree_residual

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "valuation"))
from random_games import Game, game  # type: ignore[import-not-found]

Array = NDArray[np.float64]
# (players, coalitions, noise): (games, error of the paper's solver, largest acceptable error).
CASES = {
    (20, 100, 0.1): (60, 0.77, 0.28),
    (20, 500, 0.1): (40, 0.32, 0.085),
    (50, 1000, 0.1): (24, 0.26, 0.11),
    (50, 200, 1.0): (24, 1.70, 0.77),
    (258, 600, 0.1): (6, 2.50, 0.63),
    (258, 1000, 0.1): (6, 1.80, 0.48),
}
ESTIMATORS = {
    "kernelshap": (kernelshap, "shapley_kernel"),
    "leverage": (leverage, "leverage"),
    "tree_residual": (tree_residual, "leverage"),
}
SHAPIQ = {"KernelSHAP": shapiq.KernelSHAP, "SVARM": shapiq.SVARM, "permutation": shapiq.PermutationSamplingSV}


class SizeGame:
    """v(S) = sum of a over members + n/4 times the square root of the share of players."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.a, self.n = rng.normal(size=n), n

    def value(self, Z: NDArray[np.bool_]) -> Array:
        rows = np.atleast_2d(Z).astype(np.float64)
        return np.asarray(rows @ self.a + 0.25 * self.n * np.sqrt(rows.mean(axis=1)))

    def shapley(self) -> Array:
        return np.asarray(self.a + 0.25)


def random_game(n: int, rng: np.random.Generator, strength: float) -> "Game | SizeGame":
    return SizeGame(n, rng) if n > 100 else game(n, rng, strength)


def centred(phi: Array) -> Array:
    return phi - phi.mean()


def error(phi: Array, truth: Array) -> float:
    return float(np.linalg.norm(centred(phi - truth)) / np.linalg.norm(centred(truth)))


def estimated(g: "Game | SizeGame", name: str, n: int, m: int, noise: float, seed: int) -> Array:
    estimate, design = ESTIMATORS[name]
    Z = draw(design, n, m, seed)
    v = g.value(Z)
    v0, v1 = g.value(np.array([[False] * n, [True] * n]))
    return estimate(Z, v + noise * v.std() * np.random.default_rng([seed, 1]).normal(size=m), v0, v1)


def estimated_by_shapiq(g: "Game | SizeGame", name: str, n: int, m: int, noise: float, seed: int) -> Array:
    """One of shapiq's estimators with m evaluations of its own choice.

    It also has the values of the empty and the grand coalition, without noise as for our estimators.
    """
    scale = noise * g.value(draw("leverage", n, 200, seed)).std()
    rng = np.random.default_rng([seed, 1])

    def value(Z: NDArray[np.bool_]) -> Array:
        rows = np.atleast_2d(Z)
        proper = rows.any(axis=1) & ~rows.all(axis=1)
        return np.asarray(g.value(rows) + scale * proper * rng.normal(size=len(rows)))

    credits = SHAPIQ[name](n, random_state=seed).approximate(m + 2, value)
    return np.array([credits[(i,)] for i in range(n)])


def table(strength: float) -> None:
    names = [*ESTIMATORS, *(f"shapiq {name}" for name in SHAPIQ)]
    print("  n     m noise games  at most (paper's)  " + "  ".join(f"{name:>18}" for name in names))
    for (n, m, noise), (games, paper, most) in CASES.items():
        rng, errors = np.random.default_rng(0), []
        for seed in range(games):
            g = random_game(n, rng, strength)
            truth = g.shapley()
            row = [error(estimated(g, name, n, m, noise, seed), truth) for name in ESTIMATORS]
            row += [error(estimated_by_shapiq(g, name, n, m, noise, seed), truth) for name in SHAPIQ]
            errors.append(row)
        medians = "  ".join(f"{value:18.3f}" for value in np.median(errors, axis=0))
        print(f"{n:3} {m:5} {noise:5} {games:5}  {most:7} ({paper:5.2f})     {medians}", flush=True)


def published_leverage(Z: NDArray[np.bool_], y: Array, v0: float, v1: float) -> Array:
    """Leverage SHAP as published: the constrained weighted fit without functions of size."""
    m, n = Z.shape
    size = Z.sum(axis=1)
    drawn = np.maximum(size_shares("leverage", n, m), np.finfo(float).tiny)
    w = (size_shares("shapley_kernel", n, m) / drawn)[size]
    U = Z - size[:, None] / n
    share = (v1 - v0) / n
    return np.asarray(share + np.linalg.pinv((U.T * w) @ U) @ (U.T @ (w * (y - v0 - size * share))))


def offscale() -> None:
    """The effect of fitting functions of coalition size where v0 lies off the scale of the other values."""
    print("  n    m  noise  v0 off by   published  leverage  tree_residual")
    cases = [(12, 48, 0.5, 0), (12, 48, 0.5, 5), (12, 48, 0.5, 20)]
    cases += [(20, 100, 0.1, 0), (20, 500, 0.1, 0), (20, 500, 0.1, 20)]
    for n, m, noise, off in cases:
        rng, errors = np.random.default_rng(0), []
        for seed in range(60):
            g, Z = game(n, rng), draw("leverage", n, m, seed)
            v = g.value(Z)
            v0, v1 = g.value([[0] * n, [1] * n])
            data = (Z, v + noise * v.std() * rng.normal(size=m), float(v0 - off * v.std()), float(v1))
            estimates = (published_leverage, leverage, tree_residual)
            errors.append([error(estimate(*data), g.shapley()) for estimate in estimates])
        medians = " ".join(f"{value:10.3f}" for value in np.median(errors, axis=0))
        print(f"{n:3} {m:4} {noise:6} {off:7} SD {medians}", flush=True)


def speed() -> None:
    """Seconds on one core (set OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1), best of three, and peak memory."""
    cases = [
        ("leverage", leverage, 258, 1000),
        ("tree_residual", tree_residual, 258, 1000),
        ("leverage", leverage, 10_000, 2000),
    ]
    for name, estimate, n, m in cases:
        Z = draw("leverage", n, m, 0)
        y, seconds = Z @ np.random.default_rng(0).normal(size=n), []
        for _ in range(3):
            start = time.perf_counter()
            estimate(Z, y, 0.0, 1.0)
            seconds.append(time.perf_counter() - start)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{name:14} n = {n:6} m = {m:5}: {min(seconds):6.2f} s, peak of the process so far {memory:.2f} "
            "GiB",
            flush=True,
        )


PARTS: dict[str, Callable[[], None]] = {"offscale": offscale, "speed": speed}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="|".join(PARTS), help="run these instead of the table")
    parser.add_argument("--harder", action="store_true", help="pairs and triples twice as strong")
    options = parser.parse_args()
    for part in options.parts:
        PARTS[part]()
    if not options.parts:
        table(2.0 if options.harder else 1.0)


if __name__ == "__main__":
    main()
