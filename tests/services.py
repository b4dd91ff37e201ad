"""`make services`: a real S3-compatible server (moto), and a real MLflow that keeps artifacts there, on the
loopback until Ctrl-C.

MLflow's runs are kept in <folder>/mlflow.db. moto keeps objects in memory, so stores and artifacts are lost
at the end.
"""

import argparse
import signal
import socket
from pathlib import Path
from typing import Any

from servers import CREDENTIALS, make_bucket, mlflow_on, s3_server

BUCKET = "apportion"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("work/services"),
        help="MLflow's database and log (default: work/services)",
    )
    parser.add_argument("--s3-port", type=int, default=9000)
    parser.add_argument("--mlflow-port", type=int, default=5000)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        for port in (options.s3_port, options.mlflow_port):
            # Otherwise a process that listens there already would be taken for one of these servers.
            socket.create_server(("127.0.0.1", port)).close()
        with s3_server(options.s3_port) as s3:
            make_bucket(s3, BUCKET)
            settings = CREDENTIALS | {"AWS_ENDPOINT_URL_S3": s3}
            artifacts = f"s3://{BUCKET}/mlflow"
            with mlflow_on(options.folder.resolve(), artifacts, options.mlflow_port, settings) as mlflow:
                print(_instructions(s3, mlflow, options.folder), flush=True)  # noqa: T201
                signal.pause()
    except KeyboardInterrupt:
        print("stopped")  # noqa: T201
    except OSError as error:
        raise SystemExit(f"services: {error}; other ports: --s3-port, --mlflow-port") from error


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def _instructions(s3: str, mlflow: str, folder: Path) -> str:
    variables = CREDENTIALS | {"AWS_ENDPOINT_URL_S3": s3}
    on_both = f"--set store=s3://{BUCKET}/credits --set tracking.uri={mlflow}"
    exports = "\n".join(f"export {name}={value}" for name, value in variables.items())
    return f"""S3      {s3}, bucket {BUCKET}: objects are in memory, and are lost when this ends
MLflow  {mlflow}: runs stay in {folder}/mlflow.db; artifacts are in the bucket, and are lost with it

In another terminal:

{exports}
.venv/bin/python -m pipelines run configs/tiny.yaml {on_both}
.venv/bin/apportion doctor configs/tiny.yaml {on_both}

Ctrl-C stops both."""


if __name__ == "__main__":
    main()
