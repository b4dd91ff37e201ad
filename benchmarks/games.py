"""Which game predicts retraining best at equal compute? On handwritten digits, with two planted contributors.

    .venv/bin/python benchmarks/games.py data digits                  # scikit-learn's digits, half a minute
    .venv/bin/python benchmarks/games.py measure digits/config.yaml   # half an hour on one core
    .venv/bin/python benchmarks/games.py planted digits/config.yaml   # from the same evaluations

`data` writes the images, one folder per contributor, a feature network and a configuration. Contributors are
the ten classes of digits, `noise` (images of uniform noise) and `duplicate` (the files of one digit again).
`measure` evaluates the same coalitions in each game, and others, held out, by retraining. It prints the
linear datamodelling score (LDS) by the compute of the coalitions that credits are computed from, and draws
it. The unit is one retrained coalition. What experts share and what pruning takes is counted; the empty and
the grand coalition, which change no LDS, are not. Intervals are 95 % bootstrap intervals over the held-out
coalitions. They do not hold the noise of credits and of retraining. `planted` prints what each game says of
the planted contributors. A run that was stopped continues. scikit-learn and matplotlib come with the extra
`dev`.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import t as student
from torch.nn.functional import cross_entropy, pad

from apportion.config.loading import load
from apportion.errors import ValuationError
from apportion.evaluation.lds import rank_correlations
from apportion.properties.network import FeatureNetwork, dump, embed
from apportion.records import Wanted
from apportion.rounds.cost import read_cost
from apportion.rounds.round import Round
from apportion.rounds.values import goodness, method_input
from apportion.rounds.weights import shared_cost_per_coalition
from apportion.stages import finetune, plan, prune, sample, score, train
from apportion.store.layout import weights_key
from apportion.valuation import intervals, multifidelity, semivalues
from apportion.valuation.methods import METHODS

Array = NDArray[np.float64]

IMAGES, SIDE = 60, 8
COPIED, NOISE, DUPLICATE = "digit 3", "noise", "duplicate"
FITTING = "steps: 30, batch: 20, schedule: one_cycle, beta2: 0.99, ema: 0.99, weighting: p2"
PRUNING = f"{{ratio: 0.25, retune: {{{FITTING.replace('30', '100')}, lr: 3.0e-3}}}}"
GAMES = {
    "retrain": "{method: retrain}",
    "finetune": f"{{method: finetune, fitting: {{{FITTING}, lr: 1.0e-3}}}}",
    "sparsified_finetune": f"{{method: sparsified_finetune, fitting: {{{FITTING}, lr: 1.0e-3}}, "
    f"pruning: {PRUNING}}}",
    "experts": f"{{method: experts, fitting: {{{FITTING}, lr: 3.0e-4}}}}",
    "own_images": "{method: own_images}",
}
"""Section `removal` of each game. Rates were chosen on 14 other retrained coalitions (docs/benchmarks.md)."""
CONFIG = f"""
project: digits
data: {{source: folder, path: FOLDER/images, resolution: {SIDE}, flip: false}}
network: FOLDER/network.safetensors
store: file://FOLDER/store
model: {{channels: [16, 16], attention: [false, false], norm_groups: 4}}
train: {{steps: 320, lr: 1.5e-2, batch: 24, schedule: one_cycle, beta2: 0.99, ema: 0.99, weighting: p2}}
removal: {GAMES["experts"]}
sampling: {{images: 128, steps: 8, batch: 128, sampler: dpm_solver}}
properties: [fid, cluster_entropy, inception_score]
compute: {{device: cpu, precision: fp32, base_threads: 1}}
"""

COMBINED = "combined"
"""Retrained coalitions with experts and own images as control games."""
VALUES = {"Shapley": "leverage", "Banzhaf": "banzhaf"}
"""The method that computes them, by the name of the values."""
ALPHAS, HELD_OUT, DESIGN, CONTROL = (0.25, 0.5, 0.75), 20, 96, 512
"""Sizes of held-out coalitions and how many there are of each; coalitions that credits are computed from, and
those of own images where they are a control game."""
COUNTS, BUDGETS = (24, 28, 32, 40, 48, 64, 80, 96), (9.6, 24, 48, 96)
"""Coalitions of the design that are scored; compute in the table. The first budget is a tenth of the last."""
RESAMPLES = 2000


# --- data


def write_data(folder: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels, classes = (digits.images * 255 / 16).round().astype(np.uint8), digits.target
    given = [np.flatnonzero(classes == c)[:IMAGES] for c in range(10)]
    images = {f"digit {c}": pixels[rows] for c, rows in enumerate(given)}
    images[NOISE] = np.random.default_rng(0).integers(256, size=(IMAGES, SIDE, SIDE), dtype=np.uint8)
    images[DUPLICATE] = images[COPIED]
    for name, own in images.items():
        (folder / "images" / name).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(own):
            Image.fromarray(image).save(folder / "images" / name / f"{i:02}.png")
    rgb, kept = torch.from_numpy(pixels[:, None].repeat(3, axis=1)), np.concatenate(given)
    others = np.setdiff1d(np.arange(len(classes)), kept)
    network = classifier(rgb[others], torch.from_numpy(classes[others]))
    accuracy = float(np.mean(embed(network, rgb[kept])[1].argmax(1) == classes[kept]))
    about = {"classes": list(range(10)), "held_out_accuracy": round(accuracy, 4)}
    (folder / "network.safetensors").write_bytes(dump(network, about))
    (folder / "config.yaml").write_text(CONFIG.replace("FOLDER", str(folder.resolve())))
    print(f"wrote {folder}/config.yaml and the images of {len(images)} contributors; the feature network, ")
    print(f"trained on other digits, has an accuracy of {accuracy:.3f} on the contributors' digits")


def classifier(images: torch.Tensor, classes: torch.Tensor) -> FeatureNetwork:
    """A feature network that tells ten classes apart. Images are shifted by up to one pixel and made noisy,
    because generated images are noisy too."""
    torch.manual_seed(0)
    network, steps = FeatureNetwork(10).train(), 400
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for _ in range(steps):
        index = torch.randint(len(images), (128,))
        down, right = torch.randint(0, 3, (2,)).tolist()
        shifted = pad(images[index], [1] * 4)[:, :, down : down + SIDE, right : right + SIDE].float()
        noisy = shifted + 40 * torch.rand(128, 1, 1, 1) * torch.randn(shifted.shape)
        loss = cross_entropy(network(noisy.clamp(0, 255))[1], classes[index], label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return network.eval()


# --- evaluations


def evaluated(path: Path, game: str, *changes: str) -> Round:
    """The round of a game, with the evaluations that are needed of it alone, made where they are missing."""
    sections: dict[str, Any] = {
        "valuation": {"coalitions": DESIGN, "methods": list(VALUES.values())},
        "evaluation": {"held_out": HELD_OUT, "alphas": list(ALPHAS)},
        "tracking.uri": None,
        "compute.shards": 1,
    }
    if game == "own_images":  # there are no images of the empty coalition; v0 changes no difference
        sections["valuation"]["stated_v0"] = dict.fromkeys(load(path).properties, 0.0)
    options = [f"{name}={yaml.safe_dump(value, default_flow_style=True)}" for name, value in sections.items()]
    options.append(f"removal={GAMES[game]}")
    uri = plan.run(load(path, [*options, *changes], path.parent)).round_uri
    whole = Round.open(uri)
    wanted = tuple(item for item in whole.plan.wanted if _is_needed(item, whole.manifest.n))
    this_round = replace(whole, plan=whole.plan.model_copy(update={"wanted": wanted}))
    if this_round.ledger.pending(wanted):
        train.run(uri)
        prune.run(uri)
        for stage in (finetune, sample, score):
            stage.make(this_round)
    return this_round


def _is_needed(item: Wanted, n: int) -> bool:
    """The design and its endpoints for credits, held-out coalitions for the LDS, and those of half of the
    contributors in the game itself for its faithfulness."""
    if item.purpose == "paired":
        return int(item.mask(n).sum()) == n // 2
    return item.purpose in ("design", "v0", "v1", "held_out")


class Measured:
    """The evaluations of every game, what they cost, and credits from them."""

    def __init__(self, path: Path) -> None:
        self.rounds = {game: evaluated(path, game) for game in GAMES}
        more = (f"valuation.coalitions={CONTROL}", "valuation.seed=1", "evaluation.held_out=0")
        rounds = self.rounds | {"control": evaluated(path, "own_images", *more)}
        self.retrained = self.rounds["retrain"]
        self.names = sorted(self.retrained.config.properties)
        self.inputs = {(game, p): method_input(rounds[game], p) for game in rounds for p in self.names}
        self.seconds = {game: _seconds(this_round) for game, this_round in self.rounds.items()}

    def compute(self, game: str, k: int) -> float:
        """Of credits from k coalitions, which combined are k retrained ones; in retrained coalitions."""
        if game == COMBINED:
            return k + self.compute("experts", DESIGN) + self.compute("own_images", DESIGN + CONTROL)
        shared, each = self.seconds[game]
        return (shared + k * each) / self.seconds["retrain"][1]

    def credits(self, game: str, values: str, p: str, k: int = DESIGN) -> Array | None:
        """Credits (n,) for a property from the first k coalitions; None where these are too few, or where the
        combined game has no such values."""
        try:
            if game == COMBINED:
                return self.combined(p, k).phi if values == "Shapley" else None
            of = self.inputs[game, p]
            sets = None if of.sets is None else of.sets[:k]
            return METHODS[VALUES[values]].estimate(replace(of, Z=of.Z[:k], y=of.y[:k], sets=sets)).phi
        except ValuationError:
            return None

    def combined(self, p: str, k: int = DESIGN) -> multifidelity.Combined:
        """Shapley values of retraining from k retrained coalitions and all of the control games."""
        games = ("retrain", "experts", "own_images", "control")
        exact, experts, own, control = (self.inputs[game, p] for game in games)
        controls = [
            multifidelity.CheapGame(control.Z, control.y, own.Z, own.y, noise_free=True),
            multifidelity.CheapGame(experts.Z, experts.y),
        ]
        return multifidelity.combine(controls, exact.Z[:k], exact.y[:k], exact.v0, exact.v1)


def _seconds(this_round: Round) -> tuple[float, float]:
    """What all coalitions of the design share, and what one of them takes."""
    costs = [record.cost.total for _, record in this_round.evaluations("design")]
    shared = len(costs) * shared_cost_per_coalition(this_round, this_round.plan.games["credit"])
    start, store = this_round.game("credit").recipe.start, this_round.store
    if start is not None and start.pruning is not None:
        key = weights_key(start.id)
        shared += read_cost(store.get(key), store.where(key)).finetune
    return shared, fmean(costs)


# --- scores


class Point(NamedTuple):
    """LDS (alphas, properties, 1 + RESAMPLES) of credits from k coalitions: of the held-out coalitions, and
    of bootstrap resamples of them, which are the same for all credits."""

    k: int
    compute: float
    lds: Array


Curves = dict[tuple[str, str], list[Point]]


def resampled(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """The rows, and bootstrap resamples of them, (1 + RESAMPLES, len(rows))."""
    drawn = np.random.default_rng(int(rows[0])).integers(len(rows), size=(RESAMPLES, len(rows)))
    return np.vstack([rows, rows[drawn]])


def curves(measured: Measured) -> Curves:
    """The scores of each game and kind of values, by number of coalitions."""
    held_out = measured.retrained.evaluations("held_out")
    Z = measured.retrained.masks([item for item, _ in held_out])
    y = {p: np.array([record.values[p] for _, record in held_out]) for p in measured.names}
    parts = [resampled(part) for part in np.split(np.arange(len(Z)), len(ALPHAS))]
    found: Curves = {}
    for game, values, k in product((*GAMES, COMBINED), VALUES, COUNTS):
        credits = {p: measured.credits(game, values, p, k) for p in y}
        # Rounded, so that rounding does not tell equal sums apart.
        sums = {p: np.round(Z @ phi, 10) for p, phi in credits.items() if phi is not None}
        if len(sums) == len(y):
            scores = [[rank_correlations(y[p][rows], sums[p][rows]) for p in y] for rows in parts]
            found.setdefault((game, values), []).append(Point(k, measured.compute(game, k), np.array(scores)))
    return found


def faithfulness(measured: Measured, game: str) -> list[Array]:
    """Correlation of evaluations of a game with retraining, for each property and on average. Where
    coalitions share sets of weights, it is the mean over sets of that of one set."""
    n, found = measured.retrained.manifest.n, []
    held_out = measured.retrained.evaluations("held_out")
    truth = [record.values for item, record in held_out if item.mask(n).sum() == n // 2]
    own = [record.values for _, record in measured.rounds[game].evaluations("paired")]
    rows, sets = resampled(np.arange(len(truth))), len(own) // len(truth)
    for p in measured.names:
        y, v = np.array([values[p] for values in truth])[rows], np.array([values[p] for values in own])
        found.append(np.mean([rank_correlations(y, v[s::sets][rows]) for s in range(sets)], axis=0))
    return [*found, np.mean(found, axis=0)]


def measure(path: Path) -> None:
    measured = Measured(path)
    found, names = curves(measured), measured.names
    whole = found["retrain", "Shapley"][-1]
    rows = []
    for game in GAMES:
        seconds = (*measured.seconds[game], measured.compute(game, DESIGN))
        rows.append((game, *map("{:.2f}".format, seconds), *map(interval, faithfulness(measured, game))))
    head = ["game", "shared", "a coalition", f"compute of {DESIGN}", *names, "mean"]
    table("Seconds; correlation with retraining at half of the contributors", head, rows)
    rows = [(*key, *(cell(within(points, budget)) for budget in BUDGETS)) for key, points in found.items()]
    title = "LDS at α = .25 / .5 / .75 by compute (coalitions), mean over properties"
    table(title, ["game", "values", *map(str, BUDGETS)], rows)
    head = ["game", "values", "compute", *names, "mean"]
    rows = [(*key, *by_property(points[-1])) for key, points in found.items()]
    table(f"LDS of {DESIGN} coalitions, mean over α", head, rows)
    tenth = {key: within(points, whole.compute / 10) for key, points in found.items()}
    rows = [(*key, *by_property(point, whole)) for key, point in tenth.items() if point]
    title = f"LDS at a tenth of the compute less that of Shapley values from {DESIGN} retrained coalitions"
    table(title, head, rows)
    draw(found, path.parent / "lds-by-game.png")


def within(points: list[Point], budget: float) -> Point | None:
    """The credits from the most coalitions that a budget pays for."""
    return max((p for p in points if p.compute <= budget * 1.001), key=lambda p: p.k, default=None)


def cell(point: Point | None) -> str:
    if point is None:
        return "–"
    return " / ".join(f"{score:.2f}" for score in point.lds[:, :, 0].mean(axis=1)) + f" ({point.k})"


def by_property(point: Point, less: Point | None = None) -> list[str]:
    scores = (point.lds - less.lds if less else point.lds).mean(axis=0)
    return [f"{point.compute:.1f}", *map(interval, scores), interval(scores.mean(axis=0))]


def interval(scores: Array) -> str:
    """A score, and the interval of its bootstrap resamples, which follow it."""
    low, high = np.quantile(scores[1:], [0.025, 0.975])
    return f"{scores[0]:.2f} ({low:.2f} … {high:.2f})"


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print(f"\n{title}:\n")
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |", flush=True)


def draw(found: Curves, picture: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    colours = dict(zip((*GAMES, COMBINED), ("black", "C1", "C8", "C0", "C2", "C3"), strict=True))
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(len(VALUES), len(ALPHAS), figsize=(9, 6.4), sharex=True, sharey=True, dpi=200)
    whole = found["retrain", "Shapley"][-1]
    for (game, values), (column, alpha) in product(found, enumerate(ALPHAS)):
        ax, points = axes[list(VALUES).index(values), column], found[game, values]
        x, scores = [p.compute for p in points], np.array([p.lds[column].mean(axis=0) for p in points])
        ax.plot(x, scores[:, 0], "o-", color=colours[game], ms=3, lw=1.6, label=game.replace("_", " "))
        ends = np.quantile(scores[-1, 1:], [0.025, 0.975])
        ax.vlines(x[-1], *ends, color=colours[game], lw=1, alpha=0.6)
        ax.set(xscale="log", title=f"{values} values, α = {alpha:g}")
        ax.axhline(whole.lds[column, :, 0].mean(), color="grey", lw=0.8, ls=":")
        ax.axvline(whole.compute / 10, color="grey", lw=0.8, ls=":")
    lines = axes[0, 0].get_legend_handles_labels()
    figure.legend(*lines, loc="upper center", ncol=len(colours), frameon=False)
    figure.supxlabel("compute, in retrained coalitions", fontsize=10)
    figure.supylabel("LDS, mean over properties", fontsize=10)
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    figure.savefig(picture)


# --- planted contributors


def planted(path: Path) -> None:
    measured, rows = Measured(path), []
    names = measured.retrained.manifest.names
    noise, copy, original = (names.index(name) for name in (NOISE, DUPLICATE, COPIED))
    for game, values, p in product((*GAMES, COMBINED), VALUES, measured.names):
        phi = measured.credits(game, values, p)
        if phi is None:
            continue
        good, unit = goodness(p, phi), np.std(phi, ddof=1)
        difference = (phi[copy] - phi[original]) / unit
        half = half_width(measured, game, values, p, copy, original) / unit
        rank, tie = (
            f"{1 + np.sum(good > good[noise])} of {len(phi)}",
            "yes" if abs(difference) <= half else "no",
        )
        rows.append((game, values, p, rank, f"{difference:.2f} ± {half:.2f}", tie))
    head = ["game", "values", "property", f"rank of {NOISE}", f"{DUPLICATE} less {COPIED}", "tie"]
    table("Planted contributors; the difference, at 95 %, is in SDs of the credits", head, rows)


def half_width(measured: Measured, game: str, values: str, p: str, i: int, j: int) -> float:
    """Half of the 95 % interval of the difference of two credits, in which the errors of v0 and v1 cancel.
    Combined, only the errors of single credits are known; that of the difference is at most their sum."""
    if game == COMBINED:
        exact = measured.combined(p)
        error, dof = exact.se[i] + exact.se[j], exact.dof
    else:
        of = measured.inputs[game, p]
        Z, y, v0, v1, weights = of.Z, of.y, of.v0, of.v1, semivalues.banzhaf_weights(of.Z.shape[1])
        fit: intervals.Jackknife | semivalues.SemivalueFit = intervals.jackknife(Z, y, v0, v1, of.sets)
        if values == "Banzhaf":
            fit = semivalues.semivalue_fit(Z, y, v0, v1, weights, of.sets)
        error, dof = np.linalg.norm(fit.shift[i] - fit.shift[j]), fit.dof
    return float(student.ppf(0.975, min(dof[i], dof[j])) * error)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["data", "measure", "planted"])
    parser.add_argument("path", type=Path, help="data: a folder; measure, planted: a configuration")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    {"data": write_data, "measure": measure, "planted": planted}[arguments.command](arguments.path)


if __name__ == "__main__":
    main()
