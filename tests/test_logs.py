"""How a command ends."""

from argparse import ArgumentParser

import pytest

from apportion import logs
from apportion.errors import ConfigError


def ends(monkeypatch, act):
    parser = ArgumentParser()
    parser.set_defaults(act=act)
    monkeypatch.setattr(logs, "to_terminal", lambda: None)
    return logs.run_command(parser, [])


def test_a_command_that_is_done_ends_with_0(monkeypatch, caplog):
    assert ends(monkeypatch, lambda arguments: "a value") == 0
    assert caplog.text == ""


def test_an_error_raised_on_purpose_is_one_message_and_1(monkeypatch, caplog):
    def act(arguments):
        raise ConfigError("found a, expected b")

    assert ends(monkeypatch, act) == 1
    assert [record.getMessage() for record in caplog.records] == ["apportion: found a, expected b"]


def test_any_other_error_shows_where_it_came_from(monkeypatch):
    def act(arguments):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ends(monkeypatch, act)
