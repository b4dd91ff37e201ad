"""A local run that is stopped or killed leaves no process behind, whatever its stages do.

Here the tasks are commands of a shell; `test_resume.py` stops and kills whole pipelines.
"""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from process_tree import running, seconds_until_ended, started_by
from tiny import ROOT

RUN = """
import signal, sys
from pipelines.processes import stoppable
for name in sys.argv[2].split():
    signal.signal(getattr(signal, name), signal.SIG_IGN)
with stoppable("the command that goes on") as workers:
    print("ended with", workers.run(["sh", "-c", sys.argv[1]]))
"""
SILENT = 'echo ready $$; sleep 1000 & sh -c "trap : TERM INT HUP; while :; do :; done"'
"""Says its process id, starts two processes that ignore signals or sleep, and says nothing more."""


@contextmanager
def started(task, ignored=""):
    """A run with one task, once the task says that it is ready, and the processes that the run has
    started."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, task, ignored],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test that runs in the background must not hand down that it ignores these.
        preexec_fn=lambda: [
            signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, signal.SIGHUP, signal.SIGTSTP)
        ],
        start_new_session=True,
    )
    tree = set()
    try:
        assert re.fullmatch(r"ready \d+\n", process.stdout.readline())
        deadline = time.monotonic() + 30
        while len(tree := started_by(process.pid)) < 4:  # the worker, the shell and what this starts
            assert time.monotonic() < deadline, tree
        yield process, tree
    finally:
        process.kill()
        process.communicate()
        seconds_until_ended(tree)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_all_processes_and_says_how_to_go_on(number):
    with started(SILENT) as (process, tree):
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
        assert process.returncode == 128 + number
        assert seconds_until_ended(tree) < 1  # it waits until they have closed their files
        assert out == ""
        assert err == (
            f"apportion: stopped by {number.name}; what was stored is kept, and this command goes on from "
            "there: the command that goes on\n"
        )


def test_killed_it_takes_all_processes_with_it():
    with started(SILENT) as (process, tree):
        process.kill()
        process.wait()
        assert seconds_until_ended(tree) < 10


def test_another_run_goes_on():
    with started(SILENT) as (process, tree), started(SILENT) as (_, other):
        process.terminate()
        process.wait(10)
        assert running(other) == other
        assert not tree & other


def test_signals_while_it_stops_do_not_delay_it():
    with started(SILENT) as (process, tree):
        for _ in range(3):
            process.terminate()
        process.wait(10)
        assert process.returncode == 128 + signal.SIGTERM
        assert seconds_until_ended(tree) < 10


def test_what_runs_under_nohup_survives_the_end_of_its_terminal():
    with started(SILENT, "SIGHUP SIGINT") as (process, tree):
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTSTP)  # handled after SIGHUP, so that the test need not wait in vain
        wait_for_state(process.pid, "T")
        process.send_signal(signal.SIGCONT)
        assert running(tree) == tree
        process.send_signal(
            signal.SIGINT
        )  # as a shell in a script ignores it for what runs in the background
        process.wait(10)
        assert process.returncode == 128 + signal.SIGINT


def test_ctrl_z_pauses_all_processes_and_they_go_on():
    with started(SILENT) as (process, tree):
        process.send_signal(signal.SIGTSTP)
        for pid in (process.pid, *tree):
            wait_for_state(pid, "T")
        process.send_signal(signal.SIGCONT)
        for pid in (process.pid, *tree):
            wait_for_state(pid, "RS")


def wait_for_state(pid, states):
    """Waits until a process is in one of these states (proc(5))."""
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in states:
        assert time.monotonic() < deadline, pid
        time.sleep(0.001)


@pytest.mark.parametrize(("task", "status"), [("exit 3", 3), ("kill -KILL $$", 137), ("echo said", 0)])
def test_a_task_that_ends_gives_its_status(task, status):
    done = subprocess.run(
        [sys.executable, "-c", RUN, task, ""], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    said = "said\n" if "said" in task else ""
    assert (done.returncode, done.stdout) == (0, f"{said}\n\nended with {status}\n")


def test_a_task_reads_nothing_from_the_terminal():
    read, write = os.pipe()
    os.write(write, b"typed\n")
    done = subprocess.run(
        [sys.executable, "-c", RUN, "cat", ""],
        cwd=ROOT,
        stdin=read,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout == "\n\nended with 0\n"
    os.close(read), os.close(write)
