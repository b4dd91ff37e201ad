"""One task of a local run: carries out a command, and ends with the run, however that ends.

Standard input is a pipe that the run keeps open and never writes to. When the run ends, also by SIGKILL, the
pipe ends, and this process kills its process group: itself, the command, and all that this started. The run
has started it as the leader of a group (`pipelines.processes`).

Run as a script, so that it starts within milliseconds and needs little memory.
"""

import os
import signal
import subprocess
import sys
import threading


def end_with_the_run() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=end_with_the_run, daemon=True).start()
    code = subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL)  # noqa: S603 (the command of KFP)
    sys.exit(code if code >= 0 else 128 - code)
