"""The SQLite file that keeps rounds where there is no server."""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from apportion.errors import TrackingError


def prepare(uri: str) -> None:
    """Creates the database of a `sqlite:` address where there is none.

    Raises TrackingError for a database in memory and for a file of another program: MLflow would try for
    minutes to open the file, or would add its own tables to it.
    """
    try:
        from sqlalchemy.engine import make_url
    except ImportError as error:
        raise TrackingError(
            f"{uri} needs all of MLflow (pip install 'apportion[tracking]'), or a server in tracking.uri"
        ) from error
    name = make_url(uri).database
    if not name or name == ":memory:":
        raise TrackingError(
            f"found a database in memory ({uri}), which ends with its process, expected a file, such as "
            "sqlite:///… (tracking.uri)"
        )
    if name.startswith("file:"):  # SQLite's own form of address, with options that are left as they are
        return
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _create(path)
    with closing(sqlite3.connect(path, timeout=5)) as connection:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = {row[0] for row in rows}
    if tables and "experiments" not in tables:
        raise TrackingError(
            f"found another program's database in {path}, expected none or one of MLflow (tracking.uri)"
        )


def _create(path: Path) -> None:
    """Creates an empty MLflow database in a temporary folder, and then moves it into place.

    MLflow's about 70 migrations would wait 4 s for the disk, and some cannot be resumed when interrupted.
    """
    import mlflow.db
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def do_not_wait_for_the_disk(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", do_not_wait_for_the_disk)
    try:
        with TemporaryDirectory(dir=path.parent, prefix=".mlflow-", ignore_cleanup_errors=True) as scratch:
            database = Path(scratch, "new.db")
            migrate: Any = mlflow.db.upgrade.callback
            migrate(f"sqlite+pysqlite:///{quote(str(database))}")
            with database.open("rb") as file:
                os.fsync(file.fileno())
            # A link fails where another process has created the file meanwhile, and on disks without links:
            # then MLflow uses or creates the file itself.
            with suppress(OSError):
                path.hardlink_to(database)
    finally:
        event.remove(Engine, "connect", do_not_wait_for_the_disk)
