"""The SQLite file that holds rounds where there is no server."""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from apportion.errors import TrackingError


def prepare(uri: str) -> None:
    """Refuses at once a file that MLflow would try to open for minutes, or fill although it belongs to something else."""
    try:
        from sqlalchemy.engine import make_url
    except ImportError as error:
        raise TrackingError(f"{uri} needs all of MLflow (pip install 'apportion[tracking]'), or a server in tracking.uri") from error
    name = make_url(uri).database
    if not name or name == ":memory:":
        raise TrackingError(f"found a database in memory ({uri}), which ends with its process; name a file, sqlite:///… (tracking.uri)")
    if name.startswith("file:"):  # SQLite's own form of address, for those who know what they ask for
        return
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _make(path)
    with closing(sqlite3.connect(path, timeout=5)) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and "experiments" not in tables:
        raise TrackingError(f"found another program's database in {path}, expected none or one of MLflow (tracking.uri)")


def _make(path: Path) -> None:
    """Makes an empty MLflow database in one go: its some 70 migrations would wait 4 s for the disk, and MLflow cannot resume them."""
    import mlflow.db
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def careless(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", careless)
    try:
        with TemporaryDirectory(dir=path.parent, prefix=".mlflow-", ignore_cleanup_errors=True) as scratch:
            migrate: Any = mlflow.db.upgrade.callback
            migrate(f"sqlite+pysqlite:///{quote(str(Path(scratch, 'new.db')))}")
            with Path(scratch, "new.db").open("rb") as file:
                os.fsync(file.fileno())
            with suppress(OSError):  # another process was faster, or the disk knows no links: MLflow takes or makes what is there
                path.hardlink_to(Path(scratch, "new.db"))
    finally:
        event.remove(Engine, "connect", careless)
