"""The requests that the commands send to Kubeflow Pipelines: for a pipeline and its versions, a run, a
schedule. They may be repeated: registering again, or setting the same schedule again, changes nothing."""

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import kfp_server_api
from google.protobuf import json_format

from apportion import kubeflow
from apportion.config.round import Config
from apportion.errors import ClusterError
from pipelines.client import Connection, Unusable
from pipelines.package import Package, content

log = logging.getLogger(__name__)

POLL = 15.0
"""Seconds between two requests for the state of a run."""

PAGES = 1000
"""The most pages of a listing that are read: a server may name a next page without end."""

TRIES = 5
"""How often the schedules of a name are listed at most. After each listing one is created or others are
deleted. Three listings are enough where no other process does the same."""

ENDS = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}
"""The states in which a run has ended."""


class Registered(NamedTuple):
    """A version of a pipeline, by KFP's own identifiers."""

    pipeline: str
    version: str


# The pipeline


def register(connection: Connection, package: Package) -> Registered:
    """Uploads a pipeline, or a new version of it where the content has changed. Does nothing where the
    version exists.

    Raises ClusterError where a version of this name has other content: another program has uploaded it.
    """
    name, version = package.name, package.version
    pipeline = connection.attempt(f"find or create pipeline {name}", lambda: _pipeline(connection, name))
    existing = connection.attempt(f"find version {version}", lambda: _version(connection, pipeline, version))
    registered = existing or connection.attempt(
        f"upload version {version}", lambda: _upload(connection, pipeline, package)
    )
    if _content(registered.pipeline_spec) != package.content:
        raise ClusterError(
            f"found version {version} at {connection.host} with other content than its name stands for, "
            "expected the content of this pipeline; it was changed there: delete that version, and run the "
            "same command again"
        )
    log.info(
        "pipeline %s: version %s %s", name, version, "was registered before" if existing else "is registered"
    )
    return Registered(pipeline, registered.pipeline_version_id)


def _by_name(name: str) -> str:
    """KFP's filter for a displayed name."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _all(listing: Callable[..., Any], field: str, **options: Any) -> list[Any]:
    """The items on all pages of a listing."""
    items = list[Any]()
    token = ""
    for _ in range(PAGES):
        page = listing(page_token=token, page_size=100, **options)
        items += getattr(page, field) or []
        token = page.next_page_token
        if not token:
            return items
    raise Unusable(f"found a listing of more than {PAGES} pages, expected few; see the log of its API server")


def _pipeline(connection: Connection, name: str) -> str:
    """The identifier of the pipeline of this name, which is created where it is missing."""
    client, namespace = connection.client, connection.namespace
    pipelines = _all(client.list_pipelines, "pipelines", filter=_by_name(name), namespace=namespace)
    if not pipelines:
        # Created empty: with an upload KFP would give the first version the name of the pipeline.
        body = kfp_server_api.V2beta1Pipeline(name=name, display_name=name, namespace=namespace)
        pipelines = [client.pipelines.pipeline_service_create_pipeline(pipeline=body)]
    identifier: str = pipelines[0].pipeline_id
    return identifier


def _version(connection: Connection, pipeline: str, name: str) -> Any:
    """The version of this name with its content, None where there is none."""
    client = connection.client
    versions = _all(
        client.list_pipeline_versions, "pipeline_versions", pipeline_id=pipeline, filter=_by_name(name)
    )
    return client.get_pipeline_version(pipeline, versions[0].pipeline_version_id) if versions else None


def _upload(connection: Connection, pipeline: str, package: Package) -> Any:
    """The version of a package with its content, uploaded where it is missing."""
    client = connection.client
    if existing := _version(connection, pipeline, package.version):
        return existing
    uploaded = client.upload_pipeline_version(str(package.path), package.version, pipeline_id=pipeline)
    if uploaded.pipeline_spec:
        return uploaded
    return client.get_pipeline_version(pipeline, uploaded.pipeline_version_id)


def _content(spec: Any) -> str | None:
    """Hash of a version as the server returns it: the pipeline alone, or beside its options for a platform.
    None where it is not a pipeline."""
    if not isinstance(spec, dict):
        return None
    documents: list[Any] = [spec.get("pipeline_spec", spec)]
    if "platform_spec" in spec:
        documents.append(spec["platform_spec"])
    if not all(isinstance(document, dict) for document in documents):
        return None
    try:
        return content(documents)
    except json_format.Error:
        return None


def _experiment(connection: Connection, name: str) -> str:
    """The identifier of the experiment of this name, which is created where it is missing."""
    client, namespace = connection.client, connection.namespace

    def find_or_create() -> Any:
        experiments = _all(client.list_experiments, "experiments", filter=_by_name(name), namespace=namespace)
        if experiments:
            return experiments[0]
        body = kfp_server_api.V2beta1Experiment(display_name=name, namespace=namespace)
        return client.experiments.experiment_service_create_experiment(experiment=body)

    identifier: str = connection.attempt(f"find or create experiment {name}", find_or_create).experiment_id
    return identifier


# A run


def submit(connection: Connection, config: Config, package: Package, parameters: dict[str, Any]) -> str:
    """Registers the pipeline and runs it once with these parameters; returns the run's identifier."""
    pages = kubeflow.pages(connection.host)
    registered = register(connection, package)
    experiment = _experiment(connection, config.cluster.kfp.experiment)
    name = f"{config.project} {datetime.now(UTC):%Y-%m-%d %H:%M:%S} {secrets.token_hex(3)}"
    client = connection.client

    def find_or_start() -> Any:
        runs = _all(client.list_runs, "runs", experiment_id=experiment, filter=_by_name(name))
        if runs:
            return runs[0]
        return client.run_pipeline(
            experiment,
            name,
            params=parameters,
            pipeline_id=registered.pipeline,
            version_id=registered.version,
            service_account=config.cluster.kfp.service_account,
        )

    identifier: str = connection.attempt("start a run", find_or_start).run_id
    log.info("run %r: %s/#/runs/details/%s", name, pages, identifier)
    return identifier


def follow(connection: Connection, identifier: str) -> None:
    """Waits for the end of a run. Raises ClusterError with the reason where it has not succeeded."""
    action = f"read the state of run {identifier}, which continues"
    state = None
    while True:
        run = connection.attempt(action, lambda: connection.client.get_run(identifier))
        if run.state != state:
            state = run.state
            log.info("run %s: %s", identifier, str(state).lower())
        if state in ENDS:
            break
        time.sleep(POLL)
    if state != "SUCCEEDED":
        raise ClusterError(
            f"run {identifier} ended {str(state).lower()}: {connection.without_token(_reason(run))}; "
            "submit again to continue where it stopped"
        )


def _reason(run: Any) -> str:
    """The failed tasks with KFP's message for each, else KFP's message for the run."""
    tasks = (run.run_details.task_details if run.run_details else None) or []
    failed = [task for task in tasks if task.state == "FAILED"]
    failed = [task for task in failed if not task.child_tasks] or failed
    messages = [
        f"{task.display_name} ({task.error.message})" if task.error else str(task.display_name)
        for task in failed
    ]
    if text := " ".join("; ".join(messages).split()):
        return text
    return (run.error and run.error.message) or "KFP gives no reason, see the logs of its tasks"


# A schedule


def schedule(connection: Connection, config: Config, package: Package, parameters: dict[str, Any]) -> str:
    """One enabled recurring run of the schedule's name, of this pipeline with these parameters; returns its
    identifier.

    KFP cannot change a recurring run, so a new one is created before the others are deleted. A process that
    is killed in between leaves two schedules; of their runs, the second finds nothing to do. Running the same
    command again deletes one of them. At no moment is there no schedule. Where several processes create
    schedules at the same moment, each of them keeps the newest one, deletes the others, and lists them again
    until there is no other.

    Raises ClusterError where the newest schedule has other settings: another process set it at the same
    moment.
    """
    registered = register(connection, package)
    name = schedule_name(config)
    kfp = config.cluster.kfp
    client = connection.client
    experiment = _experiment(connection, kfp.experiment)
    # The accounts of KFP's manifests.
    default_account = "default-editor" if connection.namespace else "pipeline-runner"
    account = kfp.service_account or default_account
    accepted = [(registered, parameters, (kfp.cron, None, None), "1", True, experiment, account)]
    old = set[str]()
    created = list[str]()

    def fits(recurring: Any) -> bool:
        return recurring.recurring_run_id in created or _settings(recurring) in accepted

    def find_or_create() -> Any:
        fitting = [recurring for recurring in _schedules(connection, name) if fits(recurring)]
        if fitting:
            return fitting[0]
        return client.create_recurring_run(
            experiment,
            name,
            cron_expression=kfp.cron,
            max_concurrency=1,
            no_catchup=True,
            params=parameters,
            pipeline_id=registered.pipeline,
            version_id=registered.version,
            service_account=kfp.service_account,
        )

    for _ in range(TRIES):
        existing = connection.attempt("list schedules", lambda: _schedules(connection, name))
        newest = next((recurring for recurring in existing if recurring.recurring_run_id not in old), None)
        if newest is None or not (created or fits(newest)):
            if len(created) == 2:  # another process deletes what this one creates
                break
            old = {recurring.recurring_run_id for recurring in existing}
            new = connection.attempt("create a schedule", find_or_create)
            created.append(new.recurring_run_id)
            accepted.append(_settings(new))  # its account may be one that this server's administrator chose
            continue
        kept: str = newest.recurring_run_id
        if newest.status == "DISABLED" or newest.mode == "DISABLE":
            connection.attempt("enable a schedule", partial(client.enable_recurring_run, kept))
        _delete(connection, [recurring.recurring_run_id for recurring in existing if recurring is not newest])
        if not fits(newest):
            break
        if len(existing) == 1:
            log.info("schedule %s (%s) %s: %s", name, kfp.cron, "is set" if created else "is unchanged", kept)
            return kept
    raise ClusterError(
        f"found schedule {name} at {connection.host} with other settings, expected those of this command: "
        "another process set it at the same moment; run the same command again"
    )


def unschedule(connection: Connection, config: Config) -> None:
    """Deletes every recurring run of the schedule's name."""
    name = schedule_name(config)
    existing = connection.attempt("list schedules", lambda: _schedules(connection, name))
    _delete(connection, [recurring.recurring_run_id for recurring in existing])
    log.info("schedule %s: %s", name, "deleted" if existing else "there was none")


def schedule_name(config: Config) -> str:
    return config.cluster.kfp.schedule or f"apportion-{config.project}"


def _schedules(connection: Connection, name: str) -> list[Any]:
    """The recurring runs of a name, the newest first."""
    listing = connection.client.list_recurring_runs
    existing = _all(listing, "recurring_runs", namespace=connection.namespace, filter=_by_name(name))
    return sorted(
        existing, key=lambda recurring: (str(recurring.created_at), recurring.recurring_run_id), reverse=True
    )


def _settings(recurring: Any) -> tuple[Any, ...]:
    """What a recurring run executes, when, and by which account, as the server returns it."""
    reference = recurring.pipeline_version_reference
    registered = Registered(reference.pipeline_id, reference.pipeline_version_id) if reference else None
    parameters = recurring.runtime_config.parameters if recurring.runtime_config else None
    cron = recurring.trigger.cron_schedule if recurring.trigger else None
    return (
        registered,
        parameters,
        (cron.cron, cron.start_time, cron.end_time) if cron else None,
        recurring.max_concurrency,
        bool(recurring.no_catchup),
        recurring.experiment_id,
        recurring.service_account,
    )


def _delete(connection: Connection, identifiers: Iterable[str]) -> None:
    for identifier in identifiers:
        connection.attempt("delete a schedule", partial(_delete_one, connection, identifier))


def _delete_one(connection: Connection, identifier: str) -> None:
    try:
        connection.client.delete_recurring_run(identifier)
    except kfp_server_api.ApiException as error:
        if error.status != 404:  # with 404, another process has deleted it
            raise
