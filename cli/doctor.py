"""`uniform doctor`: check that this machine has what the toolkit needs."""

from pathlib import Path
from typing import Annotated

import typer

from cli import console
from cli.places import local_path

_STYLES = {"ok": "green", "warning": "yellow", "missing": "bold red"}


def doctor(
    folder: Annotated[
        Path,
        typer.Option("--out", help="Folder for results; its free space is checked.", parser=local_path),
    ] = Path(),
) -> None:
    """Check every import and tool, and show how to fix what is missing. Exits with 1 if something is missing."""
    from rich.markup import escape
    from rich.table import Table

    from uniform.doctor import examine

    with console.err.status("importing; transformers and diffusers take some seconds"):
        findings = examine(folder)
    table = Table("check", "state", "found", "repair", box=None, pad_edge=False)
    for finding in findings:
        state = f"[{_STYLES[finding.state]}]{finding.state}"
        table.add_row(finding.name, state, escape(finding.found), escape(finding.repair))
    console.show_table(table)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)
