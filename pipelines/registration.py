"""What Kubeflow Pipelines is told: a pipeline and its versions, a run, a schedule. Each may be told again, and is then as it was."""

import json
import logging
import os
import secrets
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import kfp_server_api

from apportion.config import Config
from apportion.errors import ClusterError
from pipelines.client import Connection
from pipelines.package import Package, content

log = logging.getLogger(__name__)

POLL = 15.0
"""Seconds between two looks at a run."""

ENDS = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}


class Registered(NamedTuple):
    """A version of a pipeline, by KFP's own identifiers."""

    pipeline: str
    version: str


# The pipeline


def register(connection: Connection, package: Package) -> Registered:
    """Uploads a pipeline, or a new version of it where the content is another; does nothing where it is there.

    Raises ClusterError where a version of this name has another content: it was not uploaded by this.
    """
    pipeline = connection.ask(f"find or make pipeline {package.name}", lambda: _pipeline(connection, package.name))
    known = connection.ask(f"find version {package.version}", lambda: _version(connection, pipeline, package.version))
    if known is None:
        known = connection.ask(f"upload version {package.version}", lambda: _uploaded(connection, pipeline, package))
        log.info("pipeline %s: version %s is registered", package.name, package.version)
    else:
        log.info("pipeline %s: version %s was registered before", package.name, package.version)
    if _content(known.pipeline_spec) not in (None, package.content):
        raise ClusterError(
            f"found version {package.version} at {connection.host} with other content than this name stands for; "
            "it was changed there: delete that version, and run the same command again"
        )
    return Registered(pipeline, known.pipeline_version_id)


def _named(key: str, name: str) -> str:
    """KFP's filter for a name."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": key, "stringValue": name}]})


def _pipeline(connection: Connection, name: str) -> str:
    client, namespace = connection.client, connection.namespace
    found = client.list_pipelines(filter=_named("display_name", name), namespace=namespace).pipelines or []
    if not found:  # made empty: with an upload KFP would call the first version as the pipeline
        body = kfp_server_api.V2beta1Pipeline(name=name, display_name=name, namespace=namespace)
        found = [client.pipelines.pipeline_service_create_pipeline(pipeline=body)]
    identifier: str = found[0].pipeline_id
    return identifier


def _version(connection: Connection, pipeline: str, name: str) -> Any:
    """The version of this name with its content, None where there is none."""
    client = connection.client
    found = client.list_pipeline_versions(pipeline, filter=_named("display_name", name)).pipeline_versions or []
    return client.get_pipeline_version(pipeline, found[0].pipeline_version_id) if found else None


def _uploaded(connection: Connection, pipeline: str, package: Package) -> Any:
    client = connection.client
    known = _version(connection, pipeline, package.version)
    return known or client.upload_pipeline_version(str(package.path), package.version, pipeline_id=pipeline)


def _content(spec: Any) -> str | None:
    """Of a version as the server tells it: the pipeline alone, or beside what is said for its platform."""
    if not spec:
        return None
    parts: Iterable[Any] = (spec["pipeline_spec"], spec["platform_spec"]) if "platform_spec" in spec else (spec.get("pipeline_spec", spec),)
    return content(parts)


def _experiment(connection: Connection, config: Config) -> str:
    name = config.cluster.kfp.experiment
    found = connection.ask(
        f"find or make experiment {name}", lambda: connection.client.create_experiment(name, namespace=connection.namespace)
    )
    identifier: str = found.experiment_id
    return identifier


# A run


def submit(connection: Connection, config: Config, package: Package, told: dict[str, Any]) -> str:
    """Registers the pipeline and runs it once with these parameters; returns the run's identifier."""
    registered = register(connection, package)
    experiment = _experiment(connection, config)
    name = f"{config.project} {datetime.now(UTC):%Y-%m-%d %H:%M:%S} {secrets.token_hex(3)}"

    def run() -> Any:
        known = connection.client.list_runs(experiment_id=experiment, filter=_named("display_name", name)).runs
        return known[0] if known else connection.client.run_pipeline(
            experiment, name, params=told, pipeline_id=registered.pipeline, version_id=registered.version,
            service_account=config.cluster.kfp.service_account,
        )  # fmt: skip

    identifier: str = connection.ask("start a run", run).run_id
    pages = os.environ.get("KF_PIPELINES_UI_ENDPOINT", connection.host).rstrip("/")
    log.info("run %r: %s/#/runs/details/%s", name, pages, identifier)
    return identifier


def follow(connection: Connection, identifier: str) -> None:
    """Waits for the end of a run. Raises ClusterError with the reason where that is no success."""
    state = None
    while True:
        run = connection.ask(f"tell of run {identifier}, which goes on", lambda: connection.client.get_run(identifier))
        if run.state != state:
            state = run.state
            log.info("run %s: %s", identifier, str(state).lower())
        if state in ENDS:
            break
        time.sleep(POLL)
    if state != "SUCCEEDED":
        raise ClusterError(f"run {identifier} ended {str(state).lower()}: {_reason(run)}; submit again to go on where it stopped")


def _reason(run: Any) -> str:
    """The failed tasks with what KFP says of each, else what it says of the run."""
    tasks = (run.run_details.task_details if run.run_details else None) or []
    failed = [task for task in tasks if task.state == "FAILED" and not task.child_tasks] or [
        task for task in tasks if task.state == "FAILED"
    ]
    said = [f"{task.display_name} ({task.error.message})" if task.error else str(task.display_name) for task in failed]
    return " ".join("; ".join(said).split()) or (run.error.message if run.error else "KFP gives no reason, see the logs of its tasks")


# A schedule


def schedule(connection: Connection, config: Config, package: Package, told: dict[str, Any]) -> str:
    """One enabled recurring run of the project, of this pipeline with these parameters; returns its identifier.

    KFP cannot change a recurring run. So the new one is made before the old ones are deleted: killed in between, this leaves two,
    whose second one finds nothing to do, until it is run again; it never leaves none.
    """
    registered = register(connection, package)
    experiment = _experiment(connection, config)
    name = schedule_name(config)

    def same(known: Any) -> bool:
        return _says(known) == (registered, told, config.cluster.kfp.cron, "1", True, experiment) and (
            config.cluster.kfp.service_account in (None, known.service_account)
        )

    def made() -> Any:
        known = next(filter(same, _schedules(connection, name)), None)
        return known or connection.client.create_recurring_run(
            experiment, name, cron_expression=config.cluster.kfp.cron, max_concurrency=1, no_catchup=True, params=told,
            pipeline_id=registered.pipeline, version_id=registered.version, service_account=config.cluster.kfp.service_account,
        )  # fmt: skip

    before = connection.ask("list schedules", lambda: _schedules(connection, name))
    kept = connection.ask("make a schedule", made)
    identifier: str = kept.recurring_run_id
    if kept.status == "DISABLED":
        connection.ask("enable a schedule", lambda: connection.client.enable_recurring_run(identifier))
    _delete(connection, [known.recurring_run_id for known in before if known.recurring_run_id != identifier])
    was = identifier in {known.recurring_run_id for known in before}
    log.info("schedule %s (%s) %s: %s", name, config.cluster.kfp.cron, "is as it was" if was else "is set", identifier)
    return identifier


def unschedule(connection: Connection, config: Config) -> None:
    """No recurring run of the project any more."""
    name = schedule_name(config)
    found = connection.ask("list schedules", lambda: _schedules(connection, name))
    _delete(connection, [known.recurring_run_id for known in found])
    log.info("schedule %s: %s", name, "deleted" if found else "there was none")


def schedule_name(config: Config) -> str:
    return f"apportion-{config.project}"


def _schedules(connection: Connection, name: str) -> list[Any]:
    told = {"namespace": connection.namespace, "filter": _named("display_name", name), "page_size": 100}
    return connection.client.list_recurring_runs(**told).recurring_runs or []


def _says(known: Any) -> tuple[Any, ...]:
    """What a recurring run does and when, as the server tells it."""
    reference, cron = known.pipeline_version_reference, known.trigger.cron_schedule if known.trigger else None
    registered = Registered(reference.pipeline_id, reference.pipeline_version_id) if reference else None
    told = known.runtime_config.parameters if known.runtime_config else None
    return registered, told, cron.cron if cron else None, known.max_concurrency, bool(known.no_catchup), known.experiment_id


def _delete(connection: Connection, identifiers: Iterable[str]) -> None:
    for identifier in identifiers:
        connection.ask("delete a schedule", lambda identifier=identifier: _deleted(connection, identifier))  # type: ignore[misc]


def _deleted(connection: Connection, identifier: str) -> None:
    try:
        connection.client.delete_recurring_run(identifier)
    except kfp_server_api.ApiException as error:
        if error.status != 404:  # else it is gone already
            raise
