"""apportion: run one stage, and look at rounds."""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from apportion import __version__, logs, stages
from apportion.config.loading import load
from apportion.config.stages import STAGES
from apportion.records import Credits, Judgement, StoppingStatus

if TYPE_CHECKING:
    from apportion.rounds.round import Round

console = Console(highlight=False, markup=False, emoji=False)  # names and paths are shown as they are


def main(arguments: Sequence[str] | None = None) -> int:
    return logs.run_command(parser(), arguments)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="apportion", description="Credits the contributors of a diffusion model's training data."
    )
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, row in STAGES.items():
        if row.phase == "plan":
            plan = _command(
                commands,
                name,
                plan_round,
                "check everything, decide what a round evaluates, print its address",
            )
            _add_config(plan)
        elif row.phase != "exit":
            stage = _command(commands, name, run_stage, f"run stage {name} of a planned round: {row.summary}")
            stage.add_argument("round", help="the round's address, as plan prints it")
            stage.set_defaults(stage=name)
            if row.sharded:
                stage.add_argument(
                    "--shard", type=int, default=0, help="which part of the coalitions (default: 0)"
                )
    rounds = _command(commands, "rounds", list_rounds, "list the rounds of a store")
    rounds.add_argument("store")
    show = _command(commands, "show", show_round, "show the credits of a round")
    show.add_argument("round")
    order = _command(
        commands, "order", order_of_two, "say what a round establishes about the order of two contributors"
    )
    order.add_argument("round")
    order.add_argument("one", metavar="CONTRIBUTOR")
    order.add_argument("other", metavar="CONTRIBUTOR")
    calibrate = _command(
        commands,
        "calibrate",
        calibrate_games,
        "measure how well games agree with retraining for their compute, and print the sections of the "
        "configuration that are worth it",
    )
    _add_config(calibrate)
    calibrate.add_argument(
        "--try",
        dest="tries",
        action="append",
        default=[],
        metavar="'key=value …'",
        help="a candidate: what it changes, with quotes around an override that holds blanks; may be given "
        "several times (default: candidates made from the configuration)",
    )
    calibrate.add_argument(
        "--coalitions", type=int, default=24, help="how many are retrained for all candidates (default: 24)"
    )
    calibrate.add_argument(
        "--minutes", type=float, default=120.0, help="no training starts after so many (default: 120)"
    )
    calibrate.add_argument("--out", type=Path, help="a file for the chosen sections, as YAML")
    evidence = _command(
        commands,
        "evidence",
        write_evidence,
        "print what a round measured of its game, for other rounds of the game (evaluation.evidence)",
    )
    evidence.add_argument("round")
    evidence.add_argument(
        "--date",
        type=_day,
        metavar="YYYY-MM-DD",
        help="when the round was committed, where its commit does not say so (rounds of earlier versions)",
    )
    verify = _command(
        commands, "verify", verify_round, "read every record of a round again and recompute its credits"
    )
    verify.add_argument("round")
    doctor = _command(
        commands, "doctor", check_places, "check store, tracking, Kubeflow and cluster, and say what to fix"
    )
    _add_config(doctor)
    doctor.add_argument("--images", action="store_true", help="check that the registry has the images, too")
    doctor.add_argument("--json", action="store_true", help="print JSON instead of a table")
    lifecycle = _command(
        commands,
        "lifecycle",
        expire_objects,
        "let weights and samples in the bucket expire; evaluations never do",
    )
    _add_config(lifecycle)
    lifecycle.add_argument("--days", type=int, required=True, metavar="N")
    return top


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", type=Path)
    command.add_argument(
        "--workdir", type=Path, default=Path("work"), help="what {workdir} stands for (default: work)"
    )
    command.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="key=value", help="override an option"
    )


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected YYYY-MM-DD") from error


def _command(
    commands: Any, name: str, act: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.set_defaults(act=act)
    return command


def plan_round(arguments: argparse.Namespace) -> None:
    from apportion.stages import plan

    planned = plan.run(load(arguments.config, arguments.overrides, arguments.workdir))
    logging.info("%s", planned.reason)
    print(planned.round_uri)  # noqa: T201


def run_stage(arguments: argparse.Namespace) -> None:
    print(stages.run(arguments.stage, arguments.round, getattr(arguments, "shard", 0)))  # noqa: T201


def list_rounds(arguments: argparse.Namespace) -> None:
    from apportion.records import Commit
    from apportion.store import open_store
    from apportion.store.layout import COMMIT_FILE, committed_rounds, round_key

    store = open_store(arguments.store)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    for column in ("round", "project", "previous", "code", "compute (s)"):
        table.add_column(column, no_wrap=column in ("round", "code"))  # users copy these
    for round_id in committed_rounds(store):
        key = round_key(round_id, COMMIT_FILE)
        commit = Commit.parse(store.get(key), store.where(key))
        compute = f"{sum(commit.seconds.values()):.0f}"
        table.add_row(commit.round, commit.project, (commit.previous or "")[:8], commit.code, compute)
    console.print(table)


def show_round(arguments: argparse.Namespace) -> None:
    from apportion.rounds.round import Round

    print_credits(Round.open(arguments.round))


def print_credits(this_round: "Round") -> None:
    """A table for each property, what the intervals cover, and where the report is."""
    from apportion.evaluation.verdict import verdict_text
    from apportion.properties import PROPERTIES
    from apportion.report.sections import NO_IMPROVEMENT, network_text, no_improvement
    from apportion.store.layout import EVIDENCE_FILE, REPORT_FILE

    credits = this_round.credits
    judgements = this_round.evidence.judgements if this_round.has(EVIDENCE_FILE) else ()
    judged = {judgement.property: judgement for judgement in judgements}
    for name in sorted(this_round.config.properties):
        v0, v1 = credits.v0[name].mean, credits.v1[name].mean
        values = f"  {v0:.3f} (empty coalition) to {v1:.3f} (grand coalition); verdict: "
        status = verdict_text(judged[name]) if name in judged else "not established"
        console.print(Text.assemble((name, "bold"), values, (status, "bold")), soft_wrap=True)
        if name in judged and (reasons := grounds(judged[name])):
            console.print(f"  {reasons}", soft_wrap=True)
        for pilot in credits.pilots:
            if pilot.property == name:
                console.print(f"  retrained coalitions beside {pilot.game}: {pilot.reason}", soft_wrap=True)
        if no_improvement(PROPERTIES[name].higher_is_better, credits.v0[name], credits.v1[name]):
            console.print(f"  {NO_IMPROVEMENT}", soft_wrap=True)
        console.print(table_of_credits(credits, name))
    if network := network_text(this_round.plan.networks):
        console.print(Text(f"feature network: {network}"), soft_wrap=True)
    for method, text in credits.covers.items():
        console.print(f"Intervals by {method} cover {text}.")
    if credits.stopping:
        stopping = credits.stopping
        console.print(
            f"Look {stopping.look} of {len(stopping.looks)}, {next_step(stopping)}.", soft_wrap=True
        )
    console.print(f"report: {this_round.where(REPORT_FILE)}", soft_wrap=True)


def grounds(judgement: Judgement) -> str:
    """What a verdict is based on, at the sizes where it is weakest: the game's faithfulness, and the score of
    the published credits."""
    from apportion.evaluation.verdict import weakest_faith, weakest_score

    faith = weakest_faith(judgement.faithfulness) if judgement.faithfulness else None
    score = weakest_score(judgement)
    parts = [] if faith is None or faith.rho is None else [f"faithfulness ρ {faith.rho:.2f}"]
    if score is not None and score.lds is not None:
        interval = "" if score.low is None or score.high is None else f" ({score.low:.2f} … {score.high:.2f})"
        parts.append(f"LDS of these credits {score.lds:.2f}{interval}")
    if judgement.cited is not None:
        where = judgement.cited
        parts.append(f"measured in round {where.round} of project {where.project} on {where.date}")
    return ", ".join(parts)


def next_step(stopping: StoppingStatus) -> str:
    """Whether the next run of a round that is topped up evaluates more coalitions."""
    if stopping.stop:
        return f"enough ({stopping.reason})"
    step = "the last" if stopping.look == len(stopping.looks) else "run again to evaluate more"
    return f"{step} ({stopping.reason})"


def table_of_credits(credits: Credits, name: str) -> Table:
    """One property's credits, the best first (where lower is better, the smallest first)."""
    import numpy as np

    from apportion.rounds.values import goodness

    table = Table("contributor", box=SIMPLE_HEAD)
    rows = credits.of(name)
    by = "" if rows[0].interval in (None, rows[0].method) else f" ({rows[0].interval})"
    for column in ("credit", f"{credits.level:.0%} interval{by}", "rank", "share"):
        table.add_column(column, justify="right")
    for i in np.argsort(-goodness(name, np.array([c.phi for c in rows])), kind="stable"):
        c = rows[i]
        interval = "none" if c.low is None or c.high is None else f"{c.low:+.3f} … {c.high:+.3f}"
        rank = "" if c.best is None else str(c.best) if c.best == c.worst else f"{c.best}–{c.worst}"
        share = "" if c.share is None else f"{c.share:.1%}"
        table.add_row(c.contributor, f"{c.phi:+.3f}", interval, rank, share)
    return table


def order_of_two(arguments: argparse.Namespace) -> None:
    """For each property, which of two contributions is established to be the larger; from the ledger, as the
    ranks in the report are."""
    from apportion.errors import DataError
    from apportion.rounds.round import Round
    from apportion.rounds.values import method_input
    from apportion.valuation.ranks import rank_statement

    this_round = Round.open(arguments.round)
    names = this_round.manifest.names
    if unknown := sorted({arguments.one, arguments.other} - set(names)):
        raise DataError(
            f"found no contributor {unknown} in round {this_round.id}, expected two of: {', '.join(names)}"
        )
    one, other = names.index(arguments.one), names.index(arguments.other)
    for name in sorted(this_round.config.properties):
        fit = None
        if this_round.config.valuation.design == "leverage":
            fit = method_input(this_round, name).leverage_fit
        statement = "there are no intervals, so nothing is established"
        if fit is not None:
            statement = rank_statement(fit.look.order, one, other, names)
        console.print(Text.assemble((name, "bold"), f"  {statement}"), soft_wrap=True)


def calibrate_games(arguments: argparse.Namespace) -> None:
    from apportion import calibrate

    results = calibrate.calibrate(
        arguments.config,
        arguments.overrides,
        arguments.workdir,
        [calibrate.parsed(text) for text in arguments.tries],
        arguments.coalitions,
        arguments.minutes,
    )
    for result in results:
        for line in calibrate.described(result):
            console.print(line, soft_wrap=True)
    console.print(calibrate.baseline_line(results[0]), soft_wrap=True)
    chosen = calibrate.sections(results[0])
    if arguments.out is None:
        console.print(chosen, soft_wrap=True)
    else:
        arguments.out.write_text(chosen, encoding="utf-8")
        console.print(f"wrote sections removal and sampling to {arguments.out}", soft_wrap=True)


def write_evidence(arguments: argparse.Namespace) -> None:
    """The record on the standard output."""
    from apportion.rounds.citing import evidence_to_cite
    from apportion.rounds.round import Round

    sys.stdout.write(evidence_to_cite(Round.open(arguments.round), arguments.date).dump().decode())


def verify_round(arguments: argparse.Namespace) -> None:
    from apportion.verify import verify

    logging.info(json.dumps(verify(arguments.round)))


def check_places(arguments: argparse.Namespace) -> None:
    """Raises ApportionError, after everything has been checked and shown, where a check failed."""
    from apportion import doctor
    from apportion.errors import ApportionError

    config = load(arguments.config, arguments.overrides, arguments.workdir)
    if arguments.json:
        findings = list(doctor.examine(config, arguments.images))
        print(doctor.to_json(findings))  # noqa: T201
    else:
        with console.status("checking …"):
            findings = list(doctor.examine(config, arguments.images))
        console.print(doctor.table(findings))
    if failed := [finding.check for finding in findings if finding.result == "failed"]:
        raise ApportionError(f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}")


def expire_objects(arguments: argparse.Namespace) -> None:
    from apportion.store import open_store
    from apportion.store.lifecycle import expire

    store = open_store(load(arguments.config, arguments.overrides, arguments.workdir).store)
    changed = expire(store, arguments.days)
    rules = f"weights and samples expire after {arguments.days} days, and these rules expire nothing else"
    console.print(f"{store.uri}: {'' if changed else 'unchanged: '}{rules}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
