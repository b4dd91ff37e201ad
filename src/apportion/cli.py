"""apportion: run one stage, and look at rounds."""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from apportion import __version__, logs, stages
from apportion.config import load
from apportion.records import Credits, Judgement, Looked

if TYPE_CHECKING:
    from apportion.stages.round import Round

console = Console(highlight=False, markup=False, emoji=False)  # names and paths are shown as they are


def main(arguments: Sequence[str] | None = None) -> int:
    return logs.run_command(parser(), arguments)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="apportion", description="Credits the contributors of a diffusion model's training data.")
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    plan = _command(commands, "plan", plan_round, "check everything, decide what a round evaluates, print its address")
    _configured(plan)
    for name in stages.STAGES:
        stage = _command(commands, name, run_stage, f"run stage {name} of a planned round")
        stage.add_argument("round")
        stage.set_defaults(stage=name)
        if name in stages.SHARDED:
            stage.add_argument("--shard", type=int, default=0)
    rounds = _command(commands, "rounds", list_rounds, "the rounds of a store")
    rounds.add_argument("store")
    show = _command(commands, "show", show_round, "the credits of a round")
    show.add_argument("round")
    order = _command(commands, "order", order_of_two, "what a round establishes about the order of two contributors")
    order.add_argument("round")
    order.add_argument("one", metavar="CONTRIBUTOR")
    order.add_argument("other", metavar="CONTRIBUTOR")
    verify = _command(commands, "verify", verify_round, "read every record of a round again and recompute its credits")
    verify.add_argument("round")
    doctor = _command(commands, "doctor", check_places, "check store, tracking, Kubeflow and cluster, and say what to mend")
    _configured(doctor)
    doctor.add_argument("--images", action="store_true", help="ask the registry for the images too")
    doctor.add_argument("--json", action="store_true", help="print JSON instead of a table")
    lifecycle = _command(commands, "lifecycle", let_expire, "let weights and samples in the bucket expire; scores never do")
    _configured(lifecycle)
    lifecycle.add_argument("--days", type=int, required=True, metavar="N")
    return top


def _configured(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", type=Path)
    command.add_argument("--workdir", type=Path, default=Path("work"))
    command.add_argument("--set", dest="overrides", action="append", default=[], metavar="key=value")


def _command(commands: Any, name: str, act: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.set_defaults(act=act)
    return command


def plan_round(told: argparse.Namespace) -> None:
    from apportion.stages import plan

    planned = plan.run(load(told.config, told.overrides, told.workdir))
    logging.info("%s", planned.reason)
    print(planned.round_uri)  # noqa: T201


def run_stage(told: argparse.Namespace) -> None:
    print(stages.run(told.stage, told.round, getattr(told, "shard", 0)))  # noqa: T201


def list_rounds(told: argparse.Namespace) -> None:
    from apportion.records import Commit
    from apportion.store import open_store

    store = open_store(told.store)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    for column in ("round", "project", "previous", "code", "compute (s)"):
        table.add_column(column, no_wrap=column in ("round", "code"))  # what is to be copied whole
    for key in store.list("rounds/"):
        if key.endswith("/round.json"):
            commit = Commit.parse(store.get(key), store.where(key))
            table.add_row(commit.round, commit.project, (commit.previous or "")[:8], commit.code, f"{sum(commit.seconds.values()):.0f}")
    console.print(table)


def show_round(told: argparse.Namespace) -> None:
    from apportion.stages.round import Round

    print_credits(Round.open(told.round))


def print_credits(round: "Round") -> None:
    """A table for each property, what the intervals cover, and where the report is."""
    from apportion.evaluation.verdict import verdict
    from apportion.stages.round import round_key

    judged = {judgement.property: judgement for judgement in round.evidence.judgements} if round.has("evidence.json") else {}
    for name in sorted(round.config.properties):
        v0, v1 = round.credits.v0[name].mean, round.credits.v1[name].mean
        ends = f"  {v0:.3f} (nobody) to {v1:.3f} (everybody); verdict: "
        word = verdict(judged[name]) if name in judged else "not established"
        console.print(Text.assemble((name, "bold"), ends, (word, "bold")), soft_wrap=True)
        if name in judged and (found := grounds(judged[name])):
            console.print(f"  {found}", soft_wrap=True)
        for pilot in round.credits.pilots:
            if pilot.property == name:
                console.print(f"  retrained coalitions: {pilot.reason}", soft_wrap=True)
        console.print(credits_table(round.credits, name))
    for method, text in round.credits.covers.items():
        console.print(f"Intervals by {method} cover {text}.")
    if round.credits.looked:
        console.print(
            f"Look {round.credits.looked.look} of {len(round.credits.looked.looks)}, {going(round.credits.looked)}.", soft_wrap=True
        )
    console.print(f"report: {round.store.where(round_key(round.id, 'report.html'))}", soft_wrap=True)


def grounds(judgement: Judgement) -> str:
    """What a verdict rests on, at the sizes where it is weakest: the game's faithfulness, and the score of the published credits."""
    from apportion.evaluation.verdict import weakest_faith, weakest_score

    faith = weakest_faith(judgement.faithfulness) if judgement.faithfulness else None
    score = weakest_score(judgement.scores)
    found = [] if faith is None or faith.rho is None else [f"faithfulness ρ {faith.rho:.2f}"]
    if score is not None and score.lds is not None:
        interval = "" if score.low is None or score.high is None else f" ({score.low:.2f} … {score.high:.2f})"
        found.append(f"LDS of these credits {score.lds:.2f}{interval}")
    return ", ".join(found)


def going(looked: Looked) -> str:
    """Whether a round that is topped up goes on at the next run."""
    if looked.stop:
        return f"enough ({looked.reason})"
    return f"{'the last' if looked.look == len(looked.looks) else 'run again to go on'} ({looked.reason})"


def credits_table(credits: Credits, name: str) -> Table:
    """One property's credits, the best first: where lower is better, the smallest."""
    import numpy as np

    from apportion.stages.attribute import goodness, published

    table = Table("contributor", box=SIMPLE_HEAD)
    found = published(credits, name)
    by = "" if found[0].interval in (None, found[0].method) else f" ({found[0].interval})"
    for column in ("credit", f"{credits.level:.0%} interval{by}", "rank", "share"):
        table.add_column(column, justify="right")
    for i in np.argsort(-goodness(name, np.array([c.phi for c in found])), kind="stable"):
        c = found[i]
        interval = "none" if c.low is None or c.high is None else f"{c.low:+.3f} … {c.high:+.3f}"
        rank = "" if c.best is None else str(c.best) if c.best == c.worst else f"{c.best}–{c.worst}"
        table.add_row(c.contributor, f"{c.phi:+.3f}", interval, rank, "" if c.share is None else f"{c.share:.1%}")
    return table


def order_of_two(told: argparse.Namespace) -> None:
    """For each property, whose contribution is surely the larger; from the ledger, as the ranks in the report are."""
    from apportion.errors import DataError
    from apportion.stages.attribute import sample
    from apportion.stages.round import Round
    from apportion.valuation.ranks import rank_statement

    round = Round.open(told.round)
    names = round.manifest.names
    if strangers := sorted({told.one, told.other} - set(names)):
        raise DataError(f"found no contributor {strangers} in round {round.id}, expected two of: {', '.join(names)}")
    for name in sorted(round.config.properties):
        measured = sample(round, name).measured if round.config.valuation.design == "leverage" else None
        at = names.index(told.one), names.index(told.other)
        said = "there are no intervals, so nothing is established" if measured is None else rank_statement(measured.look.order, *at, names)
        console.print(Text.assemble((name, "bold"), f"  {said}"), soft_wrap=True)


def verify_round(told: argparse.Namespace) -> None:
    from apportion.stages import verify

    logging.info(json.dumps(verify.run(told.round)))


def check_places(told: argparse.Namespace) -> None:
    """Raises ApportionError, after everything has been checked and shown, where a check failed."""
    from apportion import doctor
    from apportion.errors import ApportionError

    config = load(told.config, told.overrides, told.workdir)
    if told.json:
        findings = list(doctor.examine(config, told.images))
        print(doctor.to_json(findings))  # noqa: T201
    else:
        with console.status("checking …"):
            findings = list(doctor.examine(config, told.images))
        console.print(doctor.table(findings))
    if failed := [finding.check for finding in findings if finding.result == "failed"]:
        raise ApportionError(f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}")


def let_expire(told: argparse.Namespace) -> None:
    from apportion.store import open_store
    from apportion.store.lifecycle import expire

    store = open_store(load(told.config, told.overrides, told.workdir).store)
    changed = expire(store, told.days)
    said = f"weights and samples expire after {told.days} days, and nothing else by these rules"
    console.print(f"{store.uri}: {'' if changed else 'as it was: '}{said}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
