"""Progress of long work, on a terminal and where its output is collected."""

import io
import re

import pytest

from apportion import progress
from apportion.progress import bar, in_words


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on when the test says so: `clock[0]` is its time in seconds."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_elsewhere_there_is_a_line_at_once_one_every_few_seconds_and_one_at_the_end(clock, capsys):
    with bar(9080, "finetune 0", "step") as steps:
        assert capsys.readouterr().err == "finetune 0: 0/9080 steps, 0 %\n"
        for _ in range(1200):
            clock[0] += 0.125
            steps.update()
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1200 * 0.125 / progress.SECONDS_BETWEEN_LINES
        assert lines[-1] == "finetune 0: 1200/9080 steps, 13 %, 16 minutes left"
        clock[0] += 3600
        steps.update(9080 - 1200)
        assert capsys.readouterr().err == ""
    assert capsys.readouterr().err == "finetune 0: 9080/9080 steps, 100 %, after 62 minutes\n"


def test_every_line_ends_with_a_line_feed_and_nothing_is_drawn(capsys):
    with bar(3, "score 1", "coalition") as coalitions:
        for _ in range(3):
            coalitions.update()
    err = capsys.readouterr().err
    assert err == "score 1: 0/3 coalitions, 0 %\nscore 1: 3/3 coalitions, 100 %, after 0 seconds\n"


def test_100_percent_is_all(clock, capsys):
    with bar(1000, "train", "step") as steps:
        clock[0] += 60
        steps.update(999)
    assert "train: 999/1000 steps, 99 %, 0 seconds left\n" in capsys.readouterr().err


def test_work_that_fails_says_how_far_it_came(clock, capsys):
    def train(tick):
        tick(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), bar(4, "train", "step") as steps:
        train(steps.update)
    assert capsys.readouterr().err.splitlines()[-1] == "train: 1/4 steps, 25 %, after 0 seconds"


def test_nothing_to_do_is_not_shown(capsys):
    with bar(0, "finetune 0", "step"):
        pass
    assert capsys.readouterr().err == ""


def test_one_of_one_is_no_plural(capsys):
    with bar(1, "sample 0", "image") as images:
        images.update()
    assert "sample 0: 1/1 image, 100 %" in capsys.readouterr().err


def test_a_terminal_shows_one_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with bar(72, "finetune 0", "step") as steps:
        steps.update(72)
    drawn = terminal.getvalue()
    assert drawn.count("\n") == 1
    assert drawn.endswith("\n")
    assert re.fullmatch(r"finetune 0   100% \|#+\| 72/72 step \[00:00<00:00\]", drawn.split("\r")[-1].strip())


def test_bars_are_drawn_for_a_process_that_shows_them_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv(progress.BARS, "1")
    with bar(72, "finetune 0", "step") as steps:
        steps.update(72)
    assert "72/72 step [" in capsys.readouterr().err


def test_idle_since_something_last_advanced(clock):
    with bar(10, "train", "step") as steps:
        steps.update()
        clock[0] += 7
        assert progress.idle() == 7
        steps.update()
        assert progress.idle() == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 seconds"),
        (1, "1 second"),
        (119, "119 seconds"),
        (120, "2 minutes"),
        (600, "10 minutes"),
        (7199, "120 minutes"),
        (7200, "2 hours"),
        (172_800, "2 days"),
    ],
)
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == words
