"""schedule: one recurring run of a project, also after failures and beside other processes."""

# ruff: noqa: F811 (fixtures are imported, and are parameters of the tests that need them)

import contextlib
import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import kfp_server_api
import pytest
from commands import SHARED, kfp_api, quick, run  # noqa: F401
from tiny import CONFIG

from apportion.config.loading import load
from apportion.errors import ClusterError
from pipelines import client, registration
from pipelines.__main__ import packed
from pipelines.parameters import parameters


def test_a_schedule(kfp_api, run):
    assert run("schedule", "cluster.kfp.cron='0 30 2 * * MON-FRI'").code == 0
    (schedule,) = kfp_api.recurring
    assert (schedule.display_name, schedule.status) == ("apportion-tiny", "ENABLED")
    assert (schedule.no_catchup, schedule.max_concurrency) == (True, "1")
    assert schedule.trigger.cron_schedule.cron == "0 30 2 * * MON-FRI"
    assert schedule.runtime_config.parameters["shards"] == [0, 1]
    version = schedule.pipeline_version_reference.pipeline_version_id
    assert version == kfp_api.versions[0].pipeline_version_id


def test_a_cron_without_seconds_is_refused_before_anything_is_sent(kfp_api, run):
    result = run("schedule", "cluster.kfp.cron='30 2 * * MON-FRI'")
    assert result.code != 0
    assert "found 5 fields, expected 6: KFP's cron begins with seconds; " in result.err
    assert "write '0 30 2 * * MON-FRI' (times are UTC)" in result.err
    assert not kfp_api.requests


def test_a_schedule_with_a_given_name(kfp_api, run):
    """As for a release of the chart: the schedule keeps its name when the project changes, and schedules of
    other names stay as they are."""
    run("schedule")
    for project in ("one", "other"):
        assert run("schedule", "cluster.kfp.schedule=team-apportion", f"project={project}").code == 0
    schedules = {schedule.display_name: schedule for schedule in kfp_api.recurring}
    assert sorted(schedules) == ["apportion-tiny", "team-apportion"]
    assert len(kfp_api.recurring) == 2
    assert '"project":"other"' in schedules["team-apportion"].runtime_config.parameters["config"]
    run("schedule", "cluster.kfp.schedule=team-apportion", "--off")
    assert [schedule.display_name for schedule in kfp_api.recurring] == ["apportion-tiny"]


def test_the_same_schedule_stays(kfp_api, run):
    run("schedule")
    (before,) = kfp_api.recurring
    result = run("schedule")
    assert "is unchanged" in result.err
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
def test_a_changed_schedule_replaces_the_old_one(kfp_api, run, change):
    run("schedule")
    (old,) = kfp_api.recurring
    assert run("schedule", change).code == 0
    (new,) = kfp_api.recurring
    assert new.recurring_run_id != old.recurring_run_id
    requests = [(request.method, request.path) for request in kfp_api.requests if "recurring" in request.path]
    assert [pair for pair in requests if pair[0] != "GET"][-2:] == [  # at no moment there is none
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


def test_a_schedule_that_another_process_deletes_meanwhile(kfp_api, run):
    run("schedule")
    kfp_api.fail("DELETE", "recurringruns", 404)  # although the next listing still contains it
    assert run("schedule", "compute.shards=4").code == 0
    assert [known.runtime_config.parameters["shards"] for known in kfp_api.recurring] == [[0, 1, 2, 3]]


def test_a_new_schedule_replaces_an_old_one_with_a_later_date(kfp_api, run):
    run("schedule")
    kfp_api.recurring[0].created_at += timedelta(days=1)
    assert run("schedule", "compute.shards=4").code == 0
    assert [known.runtime_config.parameters["shards"] for known in kfp_api.recurring] == [[0, 1, 2, 3]]


@pytest.mark.parametrize("fields", [{"status": "DISABLED"}, {"mode": "DISABLE"}])
def test_a_paused_schedule_is_enabled(kfp_api, run, fields):
    run("schedule")
    vars(kfp_api.recurring[0]).update({f"_{field}": value for field, value in fields.items()})
    assert run("schedule").code == 0
    assert [known.status for known in kfp_api.recurring] == ["ENABLED"]


def test_schedules_of_two_projects(kfp_api, run):
    run("schedule")
    run("schedule", "project=other")
    assert {known.display_name for known in kfp_api.recurring} == {"apportion-tiny", "apportion-other"}
    result = run("schedule", "--off", shared=[])  # a configuration that could not be scheduled
    assert result.code == 0, result.err
    assert [known.display_name for known in kfp_api.recurring] == ["apportion-other"]
    assert "there was none" in run("schedule", "--off").err


def date(year):
    return datetime(year, 1, 1, tzinfo=UTC)


CHANGED = {
    "max_concurrency": lambda known: setattr(known, "max_concurrency", "3"),
    "no_catchup": lambda known: setattr(known, "no_catchup", False),
    "no_catchup left out": lambda known: setattr(known, "no_catchup", None),
    "start_time": lambda known: setattr(known.trigger.cron_schedule, "start_time", date(2199)),
    "end_time": lambda known: setattr(known.trigger.cron_schedule, "end_time", date(2020)),
    "trigger": lambda known: setattr(known, "trigger", None),
    "parameters": lambda known: setattr(known, "runtime_config", None),
    "version": lambda known: setattr(known, "pipeline_version_reference", None),
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_a_schedule_with_other_settings_is_replaced(kfp_api, run, change):
    run("schedule")
    change(kfp_api.recurring[0])
    old = kfp_api.recurring[0].recurring_run_id
    result = run("schedule")
    assert "is set" in result.err
    (new,) = kfp_api.recurring
    assert new.recurring_run_id != old
    assert (new.max_concurrency, new.no_catchup) == ("1", True)
    assert new.trigger.cron_schedule.end_time is None


@pytest.mark.parametrize(("multi_user", "default"), [(False, "pipeline-runner"), (True, "default-editor")])
def test_an_account_that_is_no_longer_configured(kfp_api, run, multi_user, default):
    kfp_api.multi_user, kfp_api.account = multi_user, default
    run("schedule", "cluster.kfp.namespace=ml", "cluster.kfp.service_account=old")
    assert "is set" in run("schedule", "cluster.kfp.namespace=ml").err
    assert [known.service_account for known in kfp_api.recurring] == [default]
    assert "is unchanged" in run("schedule", "cluster.kfp.namespace=ml").err
    named = f"cluster.kfp.service_account={default}"
    assert "is unchanged" in run("schedule", "cluster.kfp.namespace=ml", named).err


def test_another_default_account_of_the_server(kfp_api, run):
    """An administrator may change KFP's default account."""
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
    assert "is unchanged" in run("schedule").err
    assert [known.recurring_run_id for known in kfp_api.recurring] == ["recurring-z"]


@pytest.fixture
def at_once(kfp_api, monkeypatch):
    """Sets two schedules at the same moment: both list none before either creates one."""
    service = kfp_server_api.RecurringRunServiceApi
    create = service.recurring_run_service_create_recurring_run

    def schedule_both(*options: str) -> None:
        host = f"cluster.kfp.host={kfp_api.url}"
        configs = [load(CONFIG, [*SHARED, host, option]) for option in options]
        barrier = threading.Barrier(2, timeout=30)

        def create_together(*arguments, **named):
            if len(kfp_api.sent("POST", "recurringruns$")) < 2:
                barrier.wait()
            return create(*arguments, **named)

        def schedule(config):
            connection = client.Connection(config.cluster.kfp)
            return registration.schedule(connection, config, package, parameters(config))

        monkeypatch.setattr(service, "recurring_run_service_create_recurring_run", create_together)
        with packed(configs[0]) as package, ThreadPoolExecutor(2) as threads:
            list(threads.map(schedule, configs))

    return schedule_both


@pytest.mark.parametrize("other", ["seed=0", "compute.shards=7"])
def test_two_at_the_same_moment_leave_one(kfp_api, at_once, other):
    with contextlib.suppress(ClusterError) if other != "seed=0" else contextlib.nullcontext():
        at_once("seed=0", other)
    assert [known.status for known in kfp_api.recurring] == ["ENABLED"]
    assert len(kfp_api.sent("POST", "recurringruns$")) == 2


@pytest.mark.parametrize(("seconds", "newest"), [(-1, "ours"), (1, "theirs")])
def test_another_schedule_that_is_set_at_the_same_moment(kfp_api, run, monkeypatch, seconds, newest):
    """The newest schedule stays; the command that set the other one fails."""
    create = kfp_api._recur

    def create_both(recurring):
        theirs = copy.copy(create(recurring))
        theirs.recurring_run_id, theirs.max_concurrency = "theirs", "2"
        theirs.created_at += timedelta(seconds=seconds)
        kfp_api.recurring.append(theirs)
        return kfp_api.recurring[0]

    monkeypatch.setattr(kfp_api, "_recur", create_both)
    result = run("schedule")
    if newest == "ours":
        assert result.code == 0, result.err
    else:
        result.refused("another process set it at the same moment", "run the same command again")
    assert [known.max_concurrency for known in kfp_api.recurring] == ["1" if newest == "ours" else "2"]


def test_a_schedule_that_another_process_always_deletes(kfp_api, run, monkeypatch):
    create = kfp_api._recur

    def create_and_delete(recurring):
        created = create(recurring)
        kfp_api.recurring.remove(created)
        return created

    monkeypatch.setattr(kfp_api, "_recur", create_and_delete)
    run("schedule").refused("another process set it at the same moment", "run the same command again")
    assert len(kfp_api.sent("POST", "recurringruns$")) == 2


def test_all_pages_of_schedules_are_deleted(kfp_api, run):
    run("schedule")
    for name in "abcde":
        kfp_api.recurring.append(copy.copy(kfp_api.recurring[0]))
        kfp_api.recurring[-1].recurring_run_id = name
    result = run("schedule", "--off")
    assert result.code == 0, result.err
    assert kfp_api.recurring == []


def test_a_listing_without_end(kfp_api, run, monkeypatch):
    monkeypatch.setattr(registration, "PAGES", 4)
    kfp_api.fail("GET", "recurringruns", 200, '{"next_page_token": "again"}', times=99)
    run("schedule", "--off").refused("more than 4 pages")
    assert len(kfp_api.sent("GET", "recurringruns")) == 4
