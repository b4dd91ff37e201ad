"""schedule: one recurring run of a project, whatever happens in between."""

# ruff: noqa: F811 (fixtures are imported, and named by the tests that need them)

import contextlib
import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import kfp_server_api
import pytest
from commands import SHARED, kfp_api, quick, run  # noqa: F401
from tiny import CONFIG

from apportion.config import load
from apportion.errors import ClusterError
from pipelines import client, registration
from pipelines.__main__ import packed
from pipelines.parameters import parameters


def test_a_schedule(kfp_api, run):
    assert run("schedule", "cluster.kfp.cron='0 30 2 * * MON-FRI'").code == 0
    (made,) = kfp_api.recurring
    assert (made.display_name, made.status, made.no_catchup, made.max_concurrency) == ("apportion-tiny", "ENABLED", True, "1")
    assert made.trigger.cron_schedule.cron == "0 30 2 * * MON-FRI"
    assert made.runtime_config.parameters["shards"] == [0, 1]
    assert made.pipeline_version_reference.pipeline_version_id == kfp_api.versions[0].pipeline_version_id


def test_a_schedule_by_a_name_of_its_own(kfp_api, run):
    """As of a release of the chart: another project is another content of it, and others' schedules are not touched."""
    run("schedule")
    for project in ("one", "other"):
        assert run("schedule", "cluster.kfp.schedule=team-apportion", f"project={project}").code == 0
    assert sorted(made.display_name for made in kfp_api.recurring) == ["apportion-tiny", "team-apportion"]
    assert (
        '"project":"other"'
        in next(made for made in kfp_api.recurring if made.display_name == "team-apportion").runtime_config.parameters["config"]
    )
    run("schedule", "cluster.kfp.schedule=team-apportion", "--off")
    assert [made.display_name for made in kfp_api.recurring] == ["apportion-tiny"]


def test_the_same_schedule_stays(kfp_api, run):
    run("schedule")
    (before,) = kfp_api.recurring
    said = run("schedule")
    assert "is as it was" in said.err
    assert kfp_api.recurring == [before]
    assert len(kfp_api.sent("POST", "recurringruns$")) == 1


@pytest.mark.parametrize(
    "change",
    [
        "cluster.kfp.cron='0 0 4 * * *'",
        "valuation.level=0.9",
        "compute.shards=4",
        "cluster.retries=5",
        "cluster.kfp.service_account=other",
        "cluster.kfp.experiment=other",
    ],
)
def test_a_changed_schedule_takes_the_place_of_the_old_one(kfp_api, run, change):
    run("schedule")
    (old,) = kfp_api.recurring
    assert run("schedule", change).code == 0
    (new,) = kfp_api.recurring
    assert new.recurring_run_id != old.recurring_run_id
    changes = [(request.method, request.path) for request in kfp_api.requests if "recurring" in request.path and request.method != "GET"]
    assert changes[-2:] == [  # never none
        ("POST", "/apis/v2beta1/recurringruns"),
        ("DELETE", f"/apis/v2beta1/recurringruns/{old.recurring_run_id}"),
    ]


def test_killed_between_the_new_schedule_and_the_old_one(kfp_api, run):
    run("schedule")
    kfp_api.fail("DELETE", "recurringruns", 403)
    run("schedule", "compute.shards=4").refused("cannot delete a schedule", "HTTP 403")
    assert len(kfp_api.recurring) == 2
    assert run("schedule", "compute.shards=4").code == 0
    (left,) = kfp_api.recurring
    assert left.runtime_config.parameters["shards"] == [0, 1, 2, 3]


def test_a_schedule_that_somebody_deletes_meanwhile(kfp_api, run):
    run("schedule")
    kfp_api.fail("DELETE", "recurringruns", 404)  # though it is in the next listing still
    assert run("schedule", "compute.shards=4").code == 0
    assert [known.runtime_config.parameters["shards"] for known in kfp_api.recurring] == [[0, 1, 2, 3]]


def test_a_new_schedule_is_newer_than_the_old_one_whatever_the_clock_says(kfp_api, run):
    run("schedule")
    kfp_api.recurring[0].created_at += timedelta(days=1)
    assert run("schedule", "compute.shards=4").code == 0
    assert [known.runtime_config.parameters["shards"] for known in kfp_api.recurring] == [[0, 1, 2, 3]]


@pytest.mark.parametrize("told", [{"status": "DISABLED"}, {"mode": "DISABLE"}])
def test_a_paused_schedule_is_enabled(kfp_api, run, told):
    run("schedule")
    vars(kfp_api.recurring[0]).update({f"_{field}": value for field, value in told.items()})
    assert run("schedule").code == 0
    assert [known.status for known in kfp_api.recurring] == ["ENABLED"]


def test_schedules_of_two_projects(kfp_api, run):
    run("schedule")
    run("schedule", "project=other")
    assert {known.display_name for known in kfp_api.recurring} == {"apportion-tiny", "apportion-other"}
    said = run("schedule", "--off", shared=[])  # what is switched off need not be fit to run
    assert said.code == 0, said.err
    assert [known.display_name for known in kfp_api.recurring] == ["apportion-other"]
    assert "there was none" in run("schedule", "--off").err


CHANGED = {
    "max_concurrency": lambda known: setattr(known, "max_concurrency", "3"),
    "no_catchup": lambda known: setattr(known, "no_catchup", False),
    "no_catchup left out": lambda known: setattr(known, "no_catchup", None),
    "start_time": lambda known: setattr(known.trigger.cron_schedule, "start_time", datetime(2199, 1, 1, tzinfo=UTC)),
    "end_time": lambda known: setattr(known.trigger.cron_schedule, "end_time", datetime(2020, 1, 1, tzinfo=UTC)),
    "trigger": lambda known: setattr(known, "trigger", None),
    "parameters": lambda known: setattr(known, "runtime_config", None),
    "version": lambda known: setattr(known, "pipeline_version_reference", None),
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_a_schedule_that_somebody_made_otherwise_is_replaced(kfp_api, run, change):
    run("schedule")
    change(kfp_api.recurring[0])
    old = kfp_api.recurring[0].recurring_run_id
    said = run("schedule")
    assert "is set" in said.err
    (new,) = kfp_api.recurring
    assert new.recurring_run_id != old
    assert (new.max_concurrency, new.no_catchup, new.trigger.cron_schedule.end_time) == ("1", True, None)


@pytest.mark.parametrize(("many", "usual"), [(False, "pipeline-runner"), (True, "default-editor")])
def test_an_account_that_is_named_no_longer(kfp_api, run, many, usual):
    kfp_api.multi_user, kfp_api.account = many, usual
    run("schedule", "cluster.kfp.namespace=ml", "cluster.kfp.service_account=old")
    assert "is set" in run("schedule", "cluster.kfp.namespace=ml").err
    assert [known.service_account for known in kfp_api.recurring] == [usual]
    assert "is as it was" in run("schedule", "cluster.kfp.namespace=ml").err
    assert "is as it was" in run("schedule", "cluster.kfp.namespace=ml", f"cluster.kfp.service_account={usual}").err


def test_an_account_that_is_the_servers_own(kfp_api, run):
    """What KFP takes where none is named, an administrator may change."""
    kfp_api.account = "runner-of-ours"
    for _ in range(3):
        assert run("schedule").code == 0
        assert [known.service_account for known in kfp_api.recurring] == ["runner-of-ours"]


def test_equal_schedules_become_one(kfp_api, run):
    run("schedule")
    for name in ("recurring-z", "recurring-0"):
        kfp_api.recurring.append(copy.copy(kfp_api.recurring[0]))
        kfp_api.recurring[-1].recurring_run_id = name
    kfp_api.recurring[0].created_at -= timedelta(seconds=1)
    assert "is as it was" in run("schedule").err
    assert [known.recurring_run_id for known in kfp_api.recurring] == ["recurring-z"]


@pytest.fixture
def at_once(kfp_api, monkeypatch):
    """Sets two schedules at the same moment: neither finds one before both make theirs."""

    def of(*options: str) -> None:
        configs = [load(CONFIG, [*SHARED, f"cluster.kfp.host={kfp_api.url}", option]) for option in options]
        barrier, make = threading.Barrier(2, timeout=30), kfp_server_api.RecurringRunServiceApi.recurring_run_service_create_recurring_run

        def together(*told, **named):
            if len(kfp_api.sent("POST", "recurringruns$")) < 2:
                barrier.wait()
            return make(*told, **named)

        with packed(configs[0]) as package, ThreadPoolExecutor(2) as threads:
            monkeypatch.setattr(kfp_server_api.RecurringRunServiceApi, "recurring_run_service_create_recurring_run", together)
            list(threads.map(lambda of: registration.schedule(client.Connection(of.cluster.kfp), of, package, parameters(of)), configs))

    return of


@pytest.mark.parametrize("other", ["seed=0", "compute.shards=7"])
def test_two_at_the_same_moment_leave_one(kfp_api, at_once, other):
    with contextlib.suppress(ClusterError) if other != "seed=0" else contextlib.nullcontext():
        at_once("seed=0", other)
    assert [known.status for known in kfp_api.recurring] == ["ENABLED"]
    assert len(kfp_api.sent("POST", "recurringruns$")) == 2


@pytest.mark.parametrize(("earlier", "newer"), [(-1, "ours"), (1, "theirs")])
def test_another_that_is_set_at_the_same_moment(kfp_api, run, monkeypatch, earlier, newer):
    """Whoever set the newest has the schedule; who has not hears of it."""
    make = kfp_api._recur

    def both(told):
        theirs = copy.copy(make(told))
        theirs.recurring_run_id, theirs.max_concurrency = "theirs", "2"
        theirs.created_at += timedelta(seconds=earlier)
        kfp_api.recurring.append(theirs)
        return kfp_api.recurring[0]

    monkeypatch.setattr(kfp_api, "_recur", both)
    said = run("schedule")
    if newer == "ours":
        assert said.code == 0, said.err
    else:
        said.refused("was set otherwise by somebody else", "run the same command again")
    assert [known.max_concurrency for known in kfp_api.recurring] == ["1" if newer == "ours" else "2"]


def test_a_schedule_that_somebody_else_always_replaces(kfp_api, run, monkeypatch):
    make = kfp_api._recur

    def replaced(told):
        made = make(told)
        kfp_api.recurring.remove(made)
        return made

    monkeypatch.setattr(kfp_api, "_recur", replaced)
    run("schedule").refused("was set otherwise by somebody else", "run the same command again")
    assert len(kfp_api.sent("POST", "recurringruns$")) == 2


def test_all_pages_of_schedules_are_deleted(kfp_api, run):
    run("schedule")
    for name in "abcde":
        kfp_api.recurring.append(copy.copy(kfp_api.recurring[0]))
        kfp_api.recurring[-1].recurring_run_id = name
    said = run("schedule", "--off")
    assert said.code == 0, said.err
    assert kfp_api.recurring == []


def test_a_listing_without_end(kfp_api, run, monkeypatch):
    monkeypatch.setattr(registration, "PAGES", 4)
    kfp_api.fail("GET", "recurringruns", 200, '{"next_page_token": "again"}', times=99)
    run("schedule", "--off").refused("more than 4 pages")
    assert len(kfp_api.sent("GET", "recurringruns")) == 4
