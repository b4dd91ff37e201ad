"""What a local run shows, from lines that KFP 2.17 printed."""

import builtins
import io
import logging
import sys
import threading

import pytest

from pipelines.terminal import LineFilter, without_kfp_lines

C, E = "\x1b[96m", "\x1b[0m"
TASK = f"""\
20:32:58.384 - INFO - Running pipeline: \x1b[95m'apportion-attribution'{E}
--------------------------------------------------------------------------------
20:32:58.390 - INFO - Executing task {C}'plan'{E}
20:32:58.390 - INFO - Streamed logs:

    [KFP Executor 2026-11-21 20:32:58,475 INFO]: Looking for component `plan` in --component_module_path `/tmp/t/ephemeral_component.py`
    [KFP Executor 2026-11-21 20:32:58,476 INFO]: Got executor_input:
    {{
        "inputs": {{
            "parameterValues": {{
                "job": "5719628",
                "config": "{{\\"project\\":\\"tiny\\",\\"store\\":\\"file:///tmp/pt/w2/store\\"}}"
            }}
        }},
        "outputs": {{
            "parameters": {{
                "Output": {{
                    "outputFile": "/tmp/pt/w2/pipeline/apportion-attribution-2026-11-21-20-32-58-383915/plan/Output"
                }}
            }},
            "outputFile": "/tmp/pt/w2/pipeline/apportion-attribution-2026-11-21-20-32-58-383915/plan/executor_output.json"
        }}
    }}
    round file:///tmp/pt/w2/store/rounds/14e205a9f42a0e8c913c18752eee4cc2: 24 of 24 evaluations are not in the ledger
    stage plan: 4.2 s
    Wrote executor output file to /tmp/pt/w2/pipeline/apportion-attribution-2026-11-21-20-32-58-383915/plan/executor_output.json.
    

20:33:07.684 - INFO - Task {C}'plan'{E} finished with status \x1b[92mSUCCESS{E}
20:33:07.685 - INFO - Task {C}'plan'{E} outputs:
    Output: 'file:///tmp/pt/w2/store/rounds/14e205a9f42a0e8c913c18752eee4cc2'
--------------------------------------------------------------------------------
"""  # noqa: E501, W293
SIDE_BY_SIDE = f"""\
    20:36:08.136 - INFO - Executing task {C}'finetune-2'{E}
20:33:28.638 - INFO - Executing task {C}'finetune'{E}
20:33:28.638 - INFO - Streamed logs:

            {{
                "inputs": {{
                    "parameterValues": {{
                        "round_uri": "file:///tmp/pt/w2/store/rounds/14e2",
                        "shard": 0,
                        "error": {{}}
                    }}
                }},
                "list": [
                ]
            }}
            
            finetune 1     0% |                                                            | 0/80 step [00:00<?]
                            finetune 0   100% |███████████████████████████████████████████████████████| 72/72 step [00:14<00:00]
            stage finetune 1: 30.6 s
    --------------------------------------------------------------------------------
20:36:08.137 - INFO - Skipping conditional task condition-7 (condition evaluated to False)
Skipping conditional task condition-2 (condition evaluated to False)
20:36:15.032 - INFO - Task {C}'close'{E} has no outputs
20:36:15.032 - INFO - Pipeline \x1b[95m'apportion-attribution'{E} finished with status \x1b[92mSUCCESS{E}
20:36:15.034 - INFO - Cleaned up workspace: /tmp/kfp-workspace-872rigcl
"""  # noqa: E501, W293
FAILURE = f"""\
20:36:34.955 - INFO - Executing task {C}'plan'{E}
    apportion: found 53 images for contributor 'Emily Jäger', need at least 5000 (data.min_images)
    found 52 images for contributor 'Fanny Jung', need at least 5000 (data.min_images)

20:36:46.795 - ERROR - Task {C}'plan'{E} finished with status \x1b[91mFAILURE{E}
Skipping task condition-2: upstream task(s) ['plan'] failed.
20:36:46.796 - INFO - Executing task {C}'close'{E}
"""


def shown(text, sizes=10**9):
    out = io.StringIO()
    stream = LineFilter(out)
    for start in range(0, len(text), sizes):
        stream.write(text[start : start + sizes])
    stream.end()
    return out.getvalue()


def test_a_task_is_its_name_and_its_own_lines():
    assert shown(TASK).splitlines() == [
        "plan",
        "    round file:///tmp/pt/w2/store/rounds/14e205a9f42a0e8c913c18752eee4cc2: 24 of 24 evaluations "
        "are not in the ledger",
        "    stage plan: 4.2 s",
    ]


def test_tasks_side_by_side_are_indented_alike():
    assert shown(SIDE_BY_SIDE).splitlines() == [
        "finetune",
        "finetune",
        "    finetune 1     0% |                                                            | 0/80 step "
        "[00:00<?]",
        "    finetune 0   100% |███████████████████████████████████████████████████████| 72/72 step "
        "[00:14<00:00]",
        "    stage finetune 1: 30.6 s",
    ]


def test_a_failure_shows_its_message():
    assert shown(FAILURE).splitlines() == [
        "plan",
        "    apportion: found 53 images for contributor 'Emily Jäger', need at least 5000 (data.min_images)",
        "    found 52 images for contributor 'Fanny Jung', need at least 5000 (data.min_images)",
        "close",
    ]


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_lines_may_arrive_in_pieces(size):
    assert shown(TASK + SIDE_BY_SIDE, size) == shown(TASK + SIDE_BY_SIDE)


@pytest.mark.parametrize(
    "line",
    [
        "    round file:///home/me/workspace/work/store/rounds/14e2: 24 of 24 evaluations are not in the "
        "ledger",
        "    apportion: file:///github/workspace/work/store: nothing is stored there",
        "      [1].png: 3x3 pixels",
        '      "quoted".png: 3x3 pixels',
        "      {a}.png: UnidentifiedImageError",
        "    'ada' has no outputs",
        "    ValueError: the task finished with status SUCCESS",
        "    the same image was given by '名前' (a.png) and 'Ünï' (b.png): they share the credit for it",
        '      File "/home/me/apportion/src/apportion/stages/train.py", line 3, in run',
    ],
)
def test_lines_of_our_stages_are_never_lost(line):
    assert shown(f"{line}\n") == f"{line}\n"


def test_a_line_without_a_line_break_is_not_lost():
    assert shown("plan\nKilled") == "plan\nKilled\n"


def test_threads_share_a_filter():
    out = io.StringIO()
    stream = LineFilter(out)
    writers = [
        threading.Thread(target=lambda i=i: [stream.write(f"    thread {i}\n") for _ in range(500)])
        for i in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(out.getvalue().splitlines()) == sorted(
        f"    thread {i}" for i in range(4) for _ in range(500)
    )


def test_what_kfp_replaces_is_restored(capsys):
    """Its threads leave their own handler on the root logger, and a `print` that indents."""
    log, original_print = logging.getLogger(), builtins.print
    handlers, level = log.handlers[:], log.level
    filters = [handler.filters[:] for handler in log.handlers]
    with without_kfp_lines():
        log.handlers[:] = [logging.StreamHandler(sys.stdout)]
        log.setLevel(logging.DEBUG)
        builtins.print = lambda *args: original_print("    ", *args)
        builtins.print("stage plan: 1.0 s")  # noqa: T201
        builtins.print("20:32:58.390 - INFO - Streamed logs:")  # noqa: T201
    assert builtins.print is original_print
    assert (log.handlers, log.level, [handler.filters for handler in log.handlers]) == (
        handlers,
        level,
        filters,
    )
    assert capsys.readouterr().out == "     stage plan: 1.0 s\n"
