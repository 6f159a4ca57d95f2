"""Commands and options of version 0.3.0 keep working, hidden, with one line that names the new one."""

import logging
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cli.main import app
from uniform.renamed import COMMANDS, OPTIONS, warn_renamed

runner = CliRunner(env={"COLUMNS": "200"})


def _command(path: str) -> Any:
    command: Any = typer.main.get_command(app)
    for name in path.split():
        command = command.commands[name]
    return command


@pytest.mark.parametrize(("old", "new"), sorted(COMMANDS.items()))
def test_an_old_command_runs_the_new_one_and_names_it(old: str, new: str, caplog: pytest.LogCaptureFixture) -> None:
    warn_renamed.cache_clear()
    with caplog.at_level(logging.WARNING):
        result = runner.invoke(app, [*old.split(), "--help"])

    assert result.exit_code == 0
    assert _command(new).help.splitlines()[0].split(".")[0] in " ".join(result.output.split())
    assert [message.partition(";")[0] for message in caplog.messages] == [
        f"'uniform {old}' is now called 'uniform {new}'"
    ]
    assert old.split()[-1] not in _command(old.rpartition(" ")[0]).commands


@pytest.mark.parametrize("path", sorted(OPTIONS))
def test_old_options_are_read_as_the_new_ones(path: str, caplog: pytest.LogCaptureFixture) -> None:
    known = {option for param in _command(path).params for option in param.opts}
    for old, new in OPTIONS[path].items():
        assert new in known
        assert old not in known
        warn_renamed.cache_clear()
        with caplog.at_level(logging.WARNING):
            runner.invoke(app, [*path.split(), old, "--help"])
        assert f"'{old}' is now called '{new}'" in caplog.text


def test_flags_show_no_type_in_the_help() -> None:
    for path in ("pipeline run", "sample", "train", "manifest build"):
        result = runner.invoke(app, [*path.split(), "--help"])
        assert "--help" in result.output
        assert "<bool>" not in result.output, path
