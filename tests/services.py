"""`make services`: a real S3-compatible server (moto), and a real MLflow that keeps artifacts there, on the loopback until Ctrl-C.

MLflow's runs are kept in <folder>/mlflow.db; moto keeps objects in memory, so stores and artifacts end with it.
"""

import argparse
import signal
import socket
from pathlib import Path
from typing import Any

from servers import CREDENTIALS, make_bucket, mlflow_on, s3_server

BUCKET = "apportion"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("work/services"), help="MLflow's database and log (default: work/services)")
    parser.add_argument("--s3-port", type=int, default=9000)
    parser.add_argument("--mlflow-port", type=int, default=5000)
    told = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    try:
        told.folder.mkdir(parents=True, exist_ok=True)
        for port in (told.s3_port, told.mlflow_port):
            socket.create_server(("127.0.0.1", port)).close()  # or whoever listens there already would be taken for ours
        with s3_server(told.s3_port) as s3:
            make_bucket(s3, BUCKET)
            settings = CREDENTIALS | {"AWS_ENDPOINT_URL_S3": s3}
            with mlflow_on(told.folder.resolve(), f"s3://{BUCKET}/mlflow", told.mlflow_port, settings) as mlflow:
                print(_said(s3, mlflow, told.folder), flush=True)  # noqa: T201
                signal.pause()
    except KeyboardInterrupt:
        print("stopped")  # noqa: T201
    except OSError as error:
        raise SystemExit(f"services: {error}; other ports: --s3-port, --mlflow-port") from error


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def _said(s3: str, mlflow: str, folder: Path) -> str:
    exports = "\n".join(f"export {name}={value}" for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL_S3": s3}).items())
    return f"""S3      {s3}, bucket {BUCKET}: objects are in memory, and end with this
MLflow  {mlflow}: runs stay in {folder}/mlflow.db, artifacts are in the bucket and end with it

Elsewhere:

{exports}
.venv/bin/python -m pipelines run configs/tiny.yaml --set store=s3://{BUCKET}/credits --set tracking.uri={mlflow}
.venv/bin/apportion doctor configs/tiny.yaml --set store=s3://{BUCKET}/credits --set tracking.uri={mlflow}

Ctrl-C stops both."""


if __name__ == "__main__":
    main()
