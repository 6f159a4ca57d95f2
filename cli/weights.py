"""`uniform weights`: list, fetch and verify published weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import console
from cli.group import Group

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(
    cls=Group, help="List, fetch and verify the published weights of the frozen models.", no_args_is_help=True
)


@app.command("list")
def list_weights() -> None:
    """Show every known model: size, licence, hub id, and the commit fetched on this machine."""
    from uniform.codecs.catalogue import catalogue
    from uniform.codecs.record import cache_folder, read_records
    from uniform.evaluation.extractors.catalogue import default_folder, evaluation_weights
    from uniform.evaluation.extractors.fetch_record import recorded_files

    records = read_records(cache_folder())
    table = _table("name", "kind", "size", "licence", "hub id or host", "fetched")
    for entry in catalogue().values():
        record = records.get(entry.hub_id)
        fetched = "no" if record is None else (record.commit or "yes")[:12]
        size = f"{'about ' if entry.about else ''}{_gigabytes(entry.bytes)}"
        table.add_row(entry.name, entry.kind, size, entry.terms, entry.hub_id, fetched)
    for weights in evaluation_weights().values():
        fetched = "yes" if recorded_files(weights, default_folder()) else "no"
        table.add_row(
            weights.name, "evaluation", f"about {_gigabytes(weights.bytes)}", weights.terms, weights.place, fetched
        )
    console.show_table(table)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A name that `uniform weights list` shows.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the repository.")] = None,
    copy_to: Annotated[
        Path | None, typer.Option(help="Also copy the files to this folder, for a machine without network.")
    ] = None,
) -> None:
    """Download a model into the hub's cache and record commit and digests. Run it again to resume.

    The networks of the metrics (kind "evaluation") are put into ~/.cache/uniform/evaluation, or into --copy-to alone.
    """
    from uniform.codecs import fetch as weights
    from uniform.codecs.catalogue import published
    from uniform.evaluation.extractors.catalogue import evaluation_weights

    if name in evaluation_weights():
        _fetch_for_evaluation(name, revision, copy_to)
        return
    _require_known(name)
    entry = published(name)
    console.err.print(f"{name}: {_gigabytes(entry.bytes)} from {entry.hub_id}. Licence: {entry.terms}.", markup=False)
    if entry.non_commercial:
        console.err.print("These weights, and what is made with them, are not for commercial use.", style="bold yellow")
    record = weights.fetch(name, revision=revision, copy_to=copy_to)
    table = _table("file", "bytes", "sha256")
    for file, fetched in record.files.items():
        table.add_row(file, f"{fetched.bytes:,}", fetched.sha256)
    console.show_table(table)
    console.out.print(f"{name}: fetched at commit {record.commit}", markup=False)
    if copy_to is not None:
        console.out.print(f'copied; the codec takes the folder by its option weights = "{copy_to}"', markup=False)


@app.command()
def verify(
    name: Annotated[str, typer.Argument(help="A name that `uniform weights list` shows.")],
    folder: Annotated[Path | None, typer.Option(help="Folder that holds the files, in place of the cache.")] = None,
) -> None:
    """Compare all bytes of a model's files with the record of their fetch. Exits with 1 on a difference."""
    from uniform.codecs import fetch as weights
    from uniform.evaluation.extractors import fetch as extractor_weights
    from uniform.evaluation.extractors.catalogue import default_folder, evaluation_weights

    verdicts: list[weights.FileCheck] | list[extractor_weights.Verdict]
    if name in evaluation_weights():
        verdicts = extractor_weights.verify(evaluation_weights()[name], folder or default_folder())
    else:
        _require_known(name)
        verdicts = weights.verify(name, folder=folder)
    table = _table("file", "bytes", "sha256", "state")
    for verdict in verdicts:
        state = "[green]whole" if verdict.problem is None else f"[bold red]{verdict.problem}"
        table.add_row(verdict.file, f"{verdict.bytes:,}", verdict.sha256, state)
    console.show_table(table)
    if any(verdict.problem is not None for verdict in verdicts):
        raise typer.Exit(1)


def _require_known(name: str) -> None:
    from uniform.codecs.catalogue import catalogue
    from uniform.config import nearest
    from uniform.errors import ConfigError
    from uniform.evaluation.extractors.catalogue import evaluation_weights

    known = [*catalogue(), *evaluation_weights()]
    if name not in known:
        raise ConfigError(f"there are no weights called '{name}'{nearest(name, known)}")


def _fetch_for_evaluation(name: str, revision: str | None, folder: Path | None) -> None:
    from uniform.errors import InputError
    from uniform.evaluation.extractors import fetch as weights
    from uniform.evaluation.extractors.catalogue import default_folder, evaluation_weights

    if revision is not None:
        raise InputError(f"{name} has no revisions: leave --revision out. Its files are known by their digests.")
    entry, place = evaluation_weights()[name], folder or default_folder()
    console.err.print(f"{name}: about {_gigabytes(entry.bytes)} from {entry.place}. {entry.terms}.", markup=False)
    if entry.non_commercial:
        console.err.print("These weights are not for commercial use.", style="bold yellow")
    table = _table("file", "bytes", "sha256", "published digest")
    for file in weights.fetch(entry, place):
        table.add_row(file.name, f"{file.bytes:,}", file.sha256, "agrees" if file.known else "none known")
    console.show_table(table)
    console.out.print(f"{name}: in {place}", markup=False)


def _table(*columns: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")  # names and digests are copied by users: never cut them
    return table


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
