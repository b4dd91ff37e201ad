"""What Kubeflow Pipelines is told: a pipeline and its versions, a run, a schedule. Each may be told again, and is then as it was."""

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import kfp_server_api
from google.protobuf import json_format

from apportion import kubeflow
from apportion.config import Config
from apportion.errors import ClusterError
from pipelines.client import Connection, Unusable
from pipelines.package import Package, content

log = logging.getLogger(__name__)

POLL = 15.0
"""Seconds between two looks at a run."""

PAGES = 1000
"""At most so many pages of a listing are read: a server may name a next one for ever."""

TRIES = 5
"""Looks at the schedules of a name, after each of which something is made or deleted: three suffice where nobody else does so."""

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
    found = connection.ask(f"find version {package.version}", lambda: _version(connection, pipeline, package.version))
    known = found or connection.ask(f"upload version {package.version}", lambda: _uploaded(connection, pipeline, package))
    if _content(known.pipeline_spec) != package.content:
        raise ClusterError(
            f"found version {package.version} at {connection.host} with other content than this name stands for; "
            "it was changed there: delete that version, and run the same command again"
        )
    log.info("pipeline %s: version %s %s", package.name, package.version, "was registered before" if found else "is registered")
    return Registered(pipeline, known.pipeline_version_id)


def _named(key: str, name: str) -> str:
    """KFP's filter for a name."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": key, "stringValue": name}]})


def _all(listing: Callable[..., Any], field: str, **told: Any) -> list[Any]:
    """What is on all pages of a listing."""
    found, token = list[Any](), ""
    for _ in range(PAGES):
        page = listing(page_token=token, page_size=100, **told)
        found += getattr(page, field) or []
        token = page.next_page_token
        if not token:
            return found
    raise Unusable(f"found a listing of more than {PAGES} pages, expected few; see the log of its API server")


def _pipeline(connection: Connection, name: str) -> str:
    client, namespace = connection.client, connection.namespace
    found = _all(client.list_pipelines, "pipelines", filter=_named("display_name", name), namespace=namespace)
    if not found:  # made empty: with an upload KFP would call the first version as the pipeline
        body = kfp_server_api.V2beta1Pipeline(name=name, display_name=name, namespace=namespace)
        found = [client.pipelines.pipeline_service_create_pipeline(pipeline=body)]
    identifier: str = found[0].pipeline_id
    return identifier


def _version(connection: Connection, pipeline: str, name: str) -> Any:
    """The version of this name with its content, None where there is none."""
    client = connection.client
    found = _all(client.list_pipeline_versions, "pipeline_versions", pipeline_id=pipeline, filter=_named("display_name", name))
    return client.get_pipeline_version(pipeline, found[0].pipeline_version_id) if found else None


def _uploaded(connection: Connection, pipeline: str, package: Package) -> Any:
    client = connection.client
    if known := _version(connection, pipeline, package.version):
        return known
    made = client.upload_pipeline_version(str(package.path), package.version, pipeline_id=pipeline)
    return made if made.pipeline_spec else client.get_pipeline_version(pipeline, made.pipeline_version_id)


def _content(spec: Any) -> str | None:
    """Of a version as the server tells it: the pipeline alone, or beside what is said for its platform. None where it is no pipeline."""
    if not isinstance(spec, dict):
        return None
    own = spec.get("pipeline_spec", spec)
    parts: Iterable[Any] = (own, spec["platform_spec"]) if "platform_spec" in spec else (own,)
    try:
        return content(parts) if all(isinstance(part, dict) for part in parts) else None
    except json_format.Error:
        return None


def _experiment(connection: Connection, name: str) -> str:
    client, namespace = connection.client, connection.namespace

    def made() -> Any:
        found = _all(client.list_experiments, "experiments", filter=_named("display_name", name), namespace=namespace)
        body = kfp_server_api.V2beta1Experiment(display_name=name, namespace=namespace)
        return found[0] if found else client.experiments.experiment_service_create_experiment(experiment=body)

    identifier: str = connection.ask(f"find or make experiment {name}", made).experiment_id
    return identifier


# A run


def submit(connection: Connection, config: Config, package: Package, told: dict[str, Any]) -> str:
    """Registers the pipeline and runs it once with these parameters; returns the run's identifier."""
    pages = kubeflow.pages(connection.host)
    registered = register(connection, package)
    experiment = _experiment(connection, config.cluster.kfp.experiment)
    name = f"{config.project} {datetime.now(UTC):%Y-%m-%d %H:%M:%S} {secrets.token_hex(3)}"

    def run() -> Any:
        known = _all(connection.client.list_runs, "runs", experiment_id=experiment, filter=_named("display_name", name))
        return known[0] if known else connection.client.run_pipeline(
            experiment, name, params=told, pipeline_id=registered.pipeline, version_id=registered.version,
            service_account=config.cluster.kfp.service_account,
        )  # fmt: skip

    identifier: str = connection.ask("start a run", run).run_id
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
        raise ClusterError(
            f"run {identifier} ended {str(state).lower()}: {connection.hidden(_reason(run))}; submit again to go on where it stopped"
        )


def _reason(run: Any) -> str:
    """The failed tasks with what KFP says of each, else what it says of the run."""
    tasks = (run.run_details.task_details if run.run_details else None) or []
    failed = [task for task in tasks if task.state == "FAILED" and not task.child_tasks] or [
        task for task in tasks if task.state == "FAILED"
    ]
    said = [f"{task.display_name} ({task.error.message})" if task.error else str(task.display_name) for task in failed]
    return " ".join("; ".join(said).split()) or (run.error and run.error.message) or "KFP gives no reason, see the logs of its tasks"


# A schedule


def schedule(connection: Connection, config: Config, package: Package, told: dict[str, Any]) -> str:
    """One enabled recurring run of the name, of this pipeline with these parameters; returns its identifier.

    KFP cannot change a recurring run. So the new one is made before the others are deleted: killed in between, this leaves two,
    whose second one finds nothing to do, until it is run again; it never leaves none. Of those that several make at the same moment
    all keep the newest, and look again until there is no other.

    Raises ClusterError where that is not as it is told here.
    """
    registered = register(connection, package)
    name, kfp = schedule_name(config), config.cluster.kfp
    experiment = _experiment(connection, kfp.experiment)
    account = kfp.service_account or ("default-editor" if connection.namespace else "pipeline-runner")  # KFP's own, of its manifests
    wanted = [(registered, told, (kfp.cron, None, None), "1", True, experiment, account)]
    old, made = set[str](), list[str]()

    def fits(known: Any) -> bool:
        return known.recurring_run_id in made or _says(known) in wanted

    def make() -> Any:
        return next(filter(fits, _schedules(connection, name)), None) or connection.client.create_recurring_run(
            experiment, name, cron_expression=kfp.cron, max_concurrency=1, no_catchup=True, params=told,
            pipeline_id=registered.pipeline, version_id=registered.version, service_account=kfp.service_account,
        )  # fmt: skip

    for _ in range(TRIES):
        found = connection.ask("list schedules", lambda: _schedules(connection, name))
        newest = next((known for known in found if known.recurring_run_id not in old), None)
        if newest is None or not (made or fits(newest)):
            if len(made) == 2:  # whoever deletes them goes on
                break
            old = {known.recurring_run_id for known in found}
            new = connection.ask("make a schedule", make)
            made.append(new.recurring_run_id)
            wanted.append(_says(new))  # where KFP has another account of its own
            continue
        kept: str = newest.recurring_run_id
        if newest.status == "DISABLED" or newest.mode == "DISABLE":
            connection.ask("enable a schedule", lambda kept=kept: connection.client.enable_recurring_run(kept))  # type: ignore[misc]
        _delete(connection, [known.recurring_run_id for known in found if known is not newest])
        if not fits(newest):
            break
        if len(found) == 1:
            log.info("schedule %s (%s) %s: %s", name, kfp.cron, "is set" if made else "is as it was", kept)
            return kept
    raise ClusterError(
        f"schedule {name} at {connection.host} was set otherwise by somebody else at the same moment; run the same command again"
    )


def unschedule(connection: Connection, config: Config) -> None:
    """No recurring run of that name any more."""
    name = schedule_name(config)
    found = connection.ask("list schedules", lambda: _schedules(connection, name))
    _delete(connection, [known.recurring_run_id for known in found])
    log.info("schedule %s: %s", name, "deleted" if found else "there was none")


def schedule_name(config: Config) -> str:
    return config.cluster.kfp.schedule or f"apportion-{config.project}"


def _schedules(connection: Connection, name: str) -> list[Any]:
    """The recurring runs of a name, the newest first."""
    told = {"namespace": connection.namespace, "filter": _named("display_name", name)}
    found = _all(connection.client.list_recurring_runs, "recurring_runs", **told)
    return sorted(found, key=lambda known: (str(known.created_at), known.recurring_run_id), reverse=True)


def _says(known: Any) -> tuple[Any, ...]:
    """What a recurring run does, when and as whom, as the server tells it."""
    reference, cron = known.pipeline_version_reference, known.trigger.cron_schedule if known.trigger else None
    registered = Registered(reference.pipeline_id, reference.pipeline_version_id) if reference else None
    told = known.runtime_config.parameters if known.runtime_config else None
    when = (cron.cron, cron.start_time, cron.end_time) if cron else None
    return registered, told, when, known.max_concurrency, bool(known.no_catchup), known.experiment_id, known.service_account


def _delete(connection: Connection, identifiers: Iterable[str]) -> None:
    for identifier in identifiers:
        connection.ask("delete a schedule", lambda identifier=identifier: _deleted(connection, identifier))  # type: ignore[misc]


def _deleted(connection: Connection, identifier: str) -> None:
    try:
        connection.client.delete_recurring_run(identifier)
    except kfp_server_api.ApiException as error:
        if error.status != 404:  # else it is gone already
            raise
