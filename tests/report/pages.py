"""Realistic synthetic rounds for the report, from seeds."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from apportion.config import digest
from apportion.records import (
    Contributor,
    Counterfactual,
    Credit,
    Credits,
    Endpoint,
    Evidence,
    Faith,
    Judgement,
    Manifest,
    Score,
)
from apportion.report.attribution import ATTRIBUTIONS
from apportion.report.page import Grid, Page
from apportion.report.tables import Spent
from apportion.valuation.intervals import covers


@dataclass(frozen=True)
class Told:
    """Stands for `apportion.properties.Property`, which would load torch."""

    meaning: str
    higher_is_better: bool | None


MEANINGS = {
    "cluster_entropy": Told("how evenly images spread over the kinds of image that the full model makes; 0 is all of one kind", True),
    "colourfulness_p90": Told("how colourful the more colourful images are (a tenth of them lies above); 0 is grey", None),
    "fid": Told("how far generated images lie from all training images in the features of the network; 0 is the closest", False),
    "inception_score": Told("how clearly images show one class each, and how many classes they show together; 1 is the least", True),
}
ENDS = {
    "cluster_entropy": (0.62, 2.45),
    "colourfulness_p90": (149.2, 76.1),
    "fid": (55.3, 10.2),
    "inception_score": (1.04, 5.31),
}
NAMES = ["Alexander Müller", "Crystal Moon", "Daniel Utz", "Emily Jäger", "Fanny Jung", "Ferdinand Sorg", "Guemil Project",
         "Johanna Wellnitz", "Laura Humpfer", "Liz Bravo", "Lisa Thiel", "Sina Schulz"]  # fmt: skip
TRUTH, CHEAP = digest("truth"), digest("credit")


def page(names: list[str] = NAMES, properties: tuple[str, ...] = tuple(MEANINGS), seed: int = 0, **changes: Any) -> Page:
    """A page with every part; `changes` replace its fields."""
    rng = np.random.default_rng(seed)
    whole = Page(
        project="openmoji-demo",
        manifest=manifest(names),
        credits=credits(names, properties, seed),
        meanings=MEANINGS,
        attribution=ATTRIBUTIONS["openmoji"],
        evidence=evidence(names, properties, seed),
        previous=credits(names[1:], properties, seed + 1, "previous"),
        thumbnails={name: rng.integers(256, size=(10, 16, 16, 3), dtype=np.uint8) for name in names},
        grids=grids(rng.integers(256, size=(5, 16, 16, 16, 3), dtype=np.uint8)),
        costs=COSTS,
        games={TRUTH: "retraining from scratch", CHEAP: "fine-tuning"},
        facts=FACTS,
        config={"project": "openmoji-demo", "data": {"source": "openmoji", "contributors": len(names)}, "properties": list(properties)},
    )
    return replace(whole, **changes)


def manifest(names: list[str]) -> Manifest:
    rng = np.random.default_rng(len(names))
    given = rng.integers(8, 205, size=len(names)).tolist()
    return Manifest(contributors=tuple(Contributor(name=name, data=digest(name), samples=k) for name, k in zip(names, given, strict=True)))


def credits(names: list[str], properties: tuple[str, ...] = tuple(MEANINGS), seed: int = 0, round: str = "round") -> Credits:
    rng = np.random.default_rng(seed)
    found: list[Credit] = []
    for name in properties:
        v0, v1 = ENDS[name]
        for method, noise in (("tree_residual", 0.0), ("leverage", 0.02), ("banzhaf", 0.05)):
            parts = rng.dirichlet(np.full(len(names), 2.0)) * 1.2 - 0.2 / len(names)
            found += [
                _credit(name, method, who, (v1 - v0) * part, abs(v1 - v0), part, noise)
                for who, part in zip(names, parts.tolist(), strict=True)
            ]
    m = 48
    return Credits(
        round=digest(round),
        credits=tuple(found),
        v0={name: Endpoint(mean=ENDS[name][0], se=0.012 * ENDS[name][0], seeds=3) for name in properties},
        v1={name: Endpoint(mean=ENDS[name][1], se=0.004 * ENDS[name][1], seeds=3) for name in properties},
        coalitions=m,
        level=0.95,
        covers={"leverage": covers(m, len(names), "finetune")},
    )


def _credit(name: str, method: str, who: str, phi: float, gain: float, share: float, noise: float) -> Credit:
    half = gain * (0.05 + 0.3 * share**2)
    bounds = (None, None) if method == "banzhaf" else (phi - half, phi + half)
    return Credit(
        property=name,
        method=method,
        game="finetune",
        contributor=who,
        phi=phi + noise * gain * share,
        se=None if bounds[0] is None else gain * share / 4,
        low=bounds[0],
        high=bounds[1],
        interval=None if bounds[0] is None else "leverage",
        best=None if bounds[0] is None else 1 + int(share < 0.1),
        worst=None if bounds[0] is None else 2 + int(share < 0.2),
        share=share,
    )


def evidence(names: list[str], properties: tuple[str, ...] = tuple(MEANINGS), seed: int = 0) -> Evidence:
    return Evidence(round=digest("round"), judgements=tuple(_judgement(names, name, i) for i, name in enumerate(properties)))


def _judgement(names: list[str], name: str, i: int) -> Judgement:
    rhos = [
        (0.31, -0.14, 0.66, "not faithful"),
        (0.73, 0.44, 0.89, "faithful"),
        (0.86, 0.7, 0.95, "faithful"),
        (0.58, -0.08, 0.85, "not established"),
    ]
    rho, low, high, status = rhos[i % 4]
    faiths = [Faith(alpha=0.5, rho=rho, low=low, high=high, pairs=24, status=status)]
    if i == 2:
        faiths.append(Faith(alpha=0.75, rho=0.69, low=0.35, high=0.87, pairs=24, status="faithful"))
    scores = [
        Score(method=method, alpha=0.5, lds=rho + shift, low=rho + shift - 0.25, high=min(1.0, rho + shift + 0.2), held_out=24)
        for method, shift in (("tree_residual", 0.03), ("leverage", 0.02), ("banzhaf", 0.07))
    ]
    gone = [("without the top 5 for fid", tuple(names[:5]), 0.41, 0.03), ("without 5 at random (1)", tuple(names[3:8]), 0.12, None)]
    changes = [
        Counterfactual(label=label, game=TRUTH, removed=who, key=digest(label), change=change, se=se, value=ENDS[name][1] * (1 + change))
        for label, who, change, se in gone
    ]
    return Judgement(property=name, faithfulness=tuple(faiths), scores=tuple(scores), counterfactuals=tuple(changes))


def grids(images: np.ndarray) -> tuple[Grid, ...]:
    titles = [
        ("Everybody", "The full model, trained from scratch."),
        ("v1", "Everybody, by the removal method: what the credits add up to."),
        ("Without the top 5", "Retrained without the contributors of most credit for FID."),
        ("Without 5 at random", "Retrained without as many chosen at random."),
        ("Nobody", "The untrained model, v0."),
    ]
    return tuple(Grid(title, caption, k) for (title, caption), k in zip(titles, images, strict=False))


COSTS = (
    Spent("train", 1, 182.4, "cpu (2 cores)"),
    Spent("finetune", 54, 712.8, "cpu (2 cores)"),
    Spent("sample", 80, 301.2, "cpu (2 cores)"),
    Spent("score", 80, 12.05, "cpu (2 cores)"),
    Spent("retrain", 26, 3770.0, "NVIDIA H200"),
)
FACTS = (
    ("Round", digest("round")),
    ("Manifest", digest("manifest")),
    ("Credit game", CHEAP),
    ("Truth game", TRUTH),
    ("Removal method", "finetune"),
    ("Design", "leverage, 48 coalitions"),
    ("Seed", "0"),
    ("Device, precision", "cpu, fp32"),
    ("Apportion", "0.1.0"),
    ("torch", "2.9.1"),
)
