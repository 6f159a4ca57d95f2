"""Every path option and argument of every command, found over the tree of commands: a URL works or is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cli.main import app

URLS = ("s3://b/x", "gs://b/x", "hf://x/y", "https://h/x")
WRITABLE = {("manifest build", "out"), ("world write", "out")}
"""Options that also take the URL of a store."""


def _commands(group: Any, trail: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*trail, name))
        else:
            yield " ".join((*trail, name)), command


def _is_place(param: Any) -> bool:
    return "Path" in repr(param.type_descriptor.annotation)


COMMANDS = dict(_commands(typer.main.get_command(app)))
PLACES = [(name, param.name) for name, command in COMMANDS.items() for param in command.params if _is_place(param)]


def _line(name: str, wanted: str, value: str) -> list[str]:
    """A command line whose option `wanted` has the value; other required arguments are filled."""
    options, arguments = [], []
    for param in COMMANDS[name].params:
        given = value if param.name == wanted else "filler"
        if param.param_type_name == "argument" and (param.required or param.name == wanted):
            arguments.append(given)
        elif param.param_type_name == "option" and (param.required or param.name == wanted):
            options += [param.opts[0], given]
        if param.name == wanted and param.param_type_name == "argument":
            break  # later arguments cannot matter: this one is refused first
    return [*name.split(), *options, *arguments]


def test_the_path_options_are_found() -> None:
    assert len(PLACES) >= 40
    assert set(PLACES) >= WRITABLE


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(("name", "wanted"), PLACES, ids=lambda value: str(value))
def test_a_url_is_refused_in_one_line_with_code_2_and_nothing_is_left(
    name: str, wanted: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if url == "s3://b/x" and (name, wanted) in WRITABLE:
        pytest.skip("it works: tests over the loopback store")
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(app, _line(name, wanted, url))

    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
    assert url in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--recipe", "--shards-config"])
@pytest.mark.parametrize("url", URLS)
def test_a_url_in_place_of_a_name_is_refused(url: str, option: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["train", url] if option == "--shards-config" else ["pipeline", "plan", "x.toml", "--recipe", url]

    result = CliRunner().invoke(app, line)

    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["a:b", "s3:x", "x#1", "what?", "100%d", "a b", "a\nb", "x=1", "[a]*"])
def test_a_dataset_is_written_checked_and_built_under_any_legal_path(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manifest, table = f"{out}/avworld_w1.toml", f"{out}/table.parquet"
    lines = (
        ["world", "write", out, "--clips", "2", "--test-clips", "1"],
        ["manifest", "check", manifest],
        ["manifest", "build", manifest, "--out", table],
        ["manifest", "diff", table, table],
        ["pipeline", "run", manifest, "--recipe", "toy", "--out", f"{out}/run", "--inline"],
        ["shards", "lint", f"{out}/run"],
    )
    for line in lines:
        result = CliRunner().invoke(app, line)
        assert result.exit_code == 0, result.output

    assert {path.name for path in tmp_path.iterdir()} == {out}
