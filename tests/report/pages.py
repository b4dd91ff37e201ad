"""Realistic synthetic rounds for the report, from seeds."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from apportion.config.hashing import digest
from apportion.records import (
    Contributor,
    Counterfactual,
    Credit,
    Credits,
    Endpoint,
    Evidence,
    Faith,
    Judgement,
    LdsScore,
    Manifest,
)
from apportion.report.attribution import ATTRIBUTIONS
from apportion.report.page import Grid, Page
from apportion.report.tables import CostLine
from apportion.valuation.intervals import covers


@dataclass(frozen=True)
class Description:
    """Stands for `apportion.properties.Property`, which would load torch."""

    meaning: str
    higher_is_better: bool | None
    needs_network: bool = True


MEANINGS = {
    "cluster_entropy": Description("how evenly the images spread over the kinds of image", True),
    "colourfulness_p90": Description(
        "how colourful the more colourful images are", None, needs_network=False
    ),
    "fid": Description("how far the generated images are from all training images", False),
    "inception_score": Description("how clearly each image shows one class", True),
}
ENDS = {
    "cluster_entropy": (0.62, 2.45),
    "colourfulness_p90": (149.2, 76.1),
    "fid": (55.3, 10.2),
    "inception_score": (1.04, 5.31),
}
NAMES = [
    "Alexander Müller",
    "Crystal Moon",
    "Daniel Utz",
    "Emily Jäger",
    "Fanny Jung",
    "Ferdinand Sorg",
    "Guemil Project",
    "Johanna Wellnitz",
    "Laura Humpfer",
    "Liz Bravo",
    "Lisa Thiel",
    "Sina Schulz",
]
TRUTH, CHEAP = digest("truth"), digest("credit")
PUBLISHED = "tree_residual"


def page(
    names: list[str] = NAMES, properties: tuple[str, ...] = tuple(MEANINGS), seed: int = 0, **changes: Any
) -> Page:
    """A page with every part; `changes` replace its fields."""
    rng = np.random.default_rng(seed)
    config = {
        "project": "openmoji-demo",
        "data": {"source": "openmoji", "contributors": len(names)},
        "properties": list(properties),
    }
    whole = Page(
        project="openmoji-demo",
        manifest=manifest(names),
        credits=credits(names, properties, seed),
        meanings=MEANINGS,
        attribution=ATTRIBUTIONS["openmoji"],
        evidence=evidence(names, properties),
        previous=credits(names[1:], properties, seed + 1, "previous"),
        thumbnails={name: rng.integers(256, size=(10, 16, 16, 3), dtype=np.uint8) for name in names},
        grids=grids(rng.integers(256, size=(5, 16, 16, 16, 3), dtype=np.uint8)),
        costs=COSTS,
        games={TRUTH: "retraining from scratch", CHEAP: "fine-tuning"},
        facts=FACTS,
        config=config,
    )
    return replace(whole, **changes)


def manifest(names: list[str]) -> Manifest:
    rng = np.random.default_rng(len(names))
    samples = rng.integers(8, 205, size=len(names)).tolist()
    rows = [
        Contributor(name=name, data=digest(name), samples=k) for name, k in zip(names, samples, strict=True)
    ]
    return Manifest(contributors=tuple(rows))


def credits(
    names: list[str],
    properties: tuple[str, ...] = tuple(MEANINGS),
    seed: int = 0,
    round_name: str = "round",
) -> Credits:
    rng = np.random.default_rng(seed)
    rows: list[Credit] = []
    for name in properties:
        v0, v1 = ENDS[name]
        for method, noise in ((PUBLISHED, 0.0), ("leverage", 0.02), ("banzhaf", 0.05)):
            shares = rng.dirichlet(np.full(len(names), 2.0)) * 1.2 - 0.2 / len(names)
            rows += [
                _credit(name, method, contributor, (v1 - v0) * share, abs(v1 - v0), share, noise)
                for contributor, share in zip(names, shares.tolist(), strict=True)
            ]
    m = 48
    return Credits(
        round=digest(round_name),
        credits=tuple(rows),
        published=dict.fromkeys(properties, PUBLISHED),
        v0={name: Endpoint(mean=ENDS[name][0], se=0.012 * ENDS[name][0], seeds=3) for name in properties},
        v1={name: Endpoint(mean=ENDS[name][1], se=0.004 * ENDS[name][1], seeds=3) for name in properties},
        coalitions=m,
        level=0.95,
        covers={"leverage": covers(m, len(names), "finetune")},
    )


def _credit(
    name: str, method: str, contributor: str, phi: float, gain: float, share: float, noise: float
) -> Credit:
    half = gain * (0.05 + 0.3 * share**2)
    bounded = method != "banzhaf"
    return Credit(
        property=name,
        method=method,
        game="finetune",
        contributor=contributor,
        phi=phi + noise * gain * share,
        se=gain * share / 4 if bounded else None,
        low=phi - half if bounded else None,
        high=phi + half if bounded else None,
        interval="leverage" if bounded else None,
        best=1 + int(share < 0.1) if bounded else None,
        worst=2 + int(share < 0.2) if bounded else None,
        share=share,
    )


def evidence(names: list[str], properties: tuple[str, ...] = tuple(MEANINGS)) -> Evidence:
    judgements = [_judgement(names, name, i) for i, name in enumerate(properties)]
    return Evidence(round=digest("round"), judgements=tuple(judgements))


def _judgement(names: list[str], name: str, i: int) -> Judgement:
    """Of the i-th property; each of four in turn has another status."""
    rho, low, high, status = [
        (0.31, -0.14, 0.66, "not faithful"),
        (0.73, 0.44, 0.89, "faithful"),
        (0.86, 0.7, 0.95, "faithful"),
        (0.58, -0.08, 0.85, "not established"),
    ][i % 4]
    faiths = [Faith(alpha=0.5, rho=rho, low=low, high=high, pairs=24, status=status)]
    if i == 2:
        faiths.append(Faith(alpha=0.75, rho=0.69, low=0.35, high=0.87, pairs=24, status="faithful"))
    scores = [
        _score(method, rho + shift)
        for method, shift in ((PUBLISHED, 0.03), ("leverage", 0.02), ("banzhaf", 0.07))
    ]
    removals = [
        ("without the top 5 for fid", tuple(names[:5]), 0.41, 0.03),
        ("without 5 at random (1)", tuple(names[3:8]), 0.12, None),
    ]
    changes = [
        Counterfactual(
            label=label,
            game=TRUTH,
            removed=removed,
            key=digest(label),
            change=change,
            se=se,
            value=ENDS[name][1] * (1 + change),
        )
        for label, removed, change, se in removals
    ]
    return Judgement(
        property=name,
        published=PUBLISHED,
        faithfulness=tuple(faiths),
        scores=tuple(scores),
        counterfactuals=tuple(changes),
    )


def _score(method: str, lds: float) -> LdsScore:
    return LdsScore(method=method, alpha=0.5, lds=lds, low=lds - 0.25, high=min(1.0, lds + 0.2), held_out=24)


def grids(images: np.ndarray) -> tuple[Grid, ...]:
    titles = [
        ("All contributors", "The base model, trained from scratch."),
        ("v1", "The grand coalition by the removal method."),
        ("Without the top 5", "Retrained without the contributors with the largest credits for FID."),
        ("Without 5 at random", "Retrained without as many chosen at random."),
        ("v0", "The empty coalition: an untrained model."),
    ]
    return tuple(Grid(title, caption, k) for (title, caption), k in zip(titles, images, strict=False))


COSTS = (
    CostLine("train", 1, 182.4, "cpu (2 cores)"),
    CostLine("finetune", 54, 712.8, "cpu (2 cores)"),
    CostLine("sample", 80, 301.2, "cpu (2 cores)"),
    CostLine("score", 80, 12.05, "cpu (2 cores)"),
    CostLine("retrain", 26, 3770.0, "NVIDIA H200"),
)
FACTS = (
    ("Round", digest("round")),
    ("Manifest", digest("manifest")),
    ("Game of the credits", CHEAP),
    ("Game of the evidence (retraining)", TRUTH),
    ("Precision", "fp32"),
    ("Apportion", "0.1.0"),
    ("Libraries", "torch 2.9.1"),
)
