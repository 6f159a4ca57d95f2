"""What the documents show is true: every shown `uniform` command exists with its options, every link leads on."""

import re
import shlex
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.main import app
from tests.support.paths import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "data_manifests").glob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def shown_commands(page: Path) -> list[list[str]]:
    """Every `uniform ...` line of the page's code blocks, split as a shell splits it; continued lines are joined."""
    blocks = re.findall(r"^```(?:bash|console|sh)\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [line for line in words if line[:1] == ["uniform"]]


def _resolve(words: list[str]) -> tuple[Any, list[str]]:
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "commands"):
        names = [word for word in rest if not word.startswith("-")]
        assert names, f"{shlex.join(words)}: no command named"
        default = getattr(command, "default_command", None)
        if default is not None and names[0] not in command.commands:
            command = command.commands[default]
            break
        assert names[0] in command.commands, f"{shlex.join(words)}: there is no command '{names[0]}'"
        command = command.commands[names[0]]
        rest = rest[rest.index(names[0]) + 1 :]
    return command, rest


def test_commands_and_links_are_found_in_the_pages() -> None:
    assert sum(len(shown_commands(page)) for page in PAGES) > 60
    assert len(re.findall(r"\]\([^)#\s]+", "".join(page.read_text() for page in PAGES))) > 30


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_shown_command_exists_with_its_options(page: Path) -> None:
    for words in shown_commands(page):
        if words[1:2] == ["--help"] or words[1:2] == ["--version"]:
            continue
        command, rest = _resolve(words)
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for word in rest:
            if word.startswith("-") and not re.fullmatch(r"-\d+(\.\d+)?", word):
                assert word.split("=")[0] in {*known, "--help"}, f"{shlex.join(words)}: no option {word}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_file_tree_of_the_architecture_page_is_current() -> None:
    script = SourceFileLoader("file_tree", str(ROOT / "scripts" / "file_tree"))
    module = module_from_spec(spec_from_loader("file_tree", script))
    script.exec_module(module)
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

    assert page == module.updated(page), "run scripts/file_tree"


def test_the_file_tree_names_every_folder_with_code() -> None:
    script = SourceFileLoader("file_tree", str(ROOT / "scripts" / "file_tree"))
    module = module_from_spec(spec_from_loader("file_tree", script))
    script.exec_module(module)
    tops = ("cli", "pipelines", "uniform")
    folders = {str(path.parent.relative_to(ROOT)) for top in tops for path in (ROOT / top).rglob("[a-z]*.py")}

    assert folders <= set(module.FOLDERS)


def test_the_readme_has_at_most_120_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_ci_runs_the_script_that_people_run() -> None:
    assert "make check" in (ROOT / ".ci" / "run").read_text()
    assert "scripts/check" in (ROOT / "Makefile").read_text()
    assert "make test" in (ROOT / "scripts" / "check").read_text()
