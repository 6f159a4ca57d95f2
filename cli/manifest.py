"""`uniform manifest`: check and describe datasets, build and compare their tables of clips."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import console
from cli.group import Group
from cli.options import AllowPartial, Root

if TYPE_CHECKING:
    from pipelines.clip import Row
    from pipelines.manifest.build import Built, Manifest

app = typer.Typer(
    cls=Group,
    help="Datasets: check a manifest and its listing, describe it, build its table of clips, compare tables.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="MANIFEST", help="TOML file, or the name of a built-in manifest.")]
ListingFiles = Annotated[
    list[Path] | None, typer.Option("--listing", help="Listing to read instead of the manifest's; may be repeated.")
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="TABLE",
        help="Table of clips, or a manifest: leave out clips that overlap its clips in the same source.",
    ),
]
Schema = Annotated[
    str | None, typer.Option("--schema", help="Schema of the listing, where it is not detected from its columns.")
]


@app.command()
def check(
    manifest: Name,
    listing: ListingFiles = None,
    root: Root = None,
    schema: Schema = None,
    allow_partial: AllowPartial = False,
) -> None:
    """Report every problem of a listing with file, line, column and fix. Writes nothing; exits with 1 on an error."""
    built = _inspect(_read(manifest, root), listing, schema, allow_partial)
    _show_warnings(built)
    built.problems.raise_if_any(f"{built.manifest.name}: its listing cannot be used")
    console.out.print(_counts(built), markup=False)


@app.command()
def describe(
    manifest: Name,
    listing: ListingFiles = None,
    root: Root = None,
    schema: Schema = None,
    allow_partial: AllowPartial = False,
) -> None:
    """Show what a dataset is, how its listing is read, and its first clips."""
    found = _read(manifest, root)
    console.out.print(_properties(found), markup=False)
    table = found.table
    if listing or table.listing.file or table.listing.glob:
        built = _inspect(found, listing, schema, allow_partial)
        console.out.print(_counts(built), markup=False)
        for row in built.rows[:3]:
            console.out.print(f"  {row}", markup=False)


@app.command()
def build(
    manifest: Name,
    out: Annotated[Path, typer.Option("--out", help="Parquet file that receives the table.")] = Path(
        "manifest.parquet"
    ),
    listing: ListingFiles = None,
    root: Root = None,
    schema: Schema = None,
    allow_partial: AllowPartial = False,
    exclude: Exclude = None,
) -> None:
    """Write the table of clips of a manifest and its listing (Parquet)."""
    from pipelines.manifest.build import write_parquet
    from pipelines.manifest.set_operations import overlapping

    built = _inspect(_read(manifest, root), listing, schema, allow_partial)
    _show_warnings(built)
    built.problems.raise_if_any(f"{built.manifest.name}: its listing cannot be used")
    for table in exclude or ():
        shared = overlapping(built.rows, _rows(table))
        built.rows[:] = [row for row, overlaps_it in zip(built.rows, shared, strict=True) if not overlaps_it]
        console.out.print(f"left out: {_number(sum(shared), 'clip')} that overlap {table}", markup=False)
    write_parquet(built.rows, out)
    console.out.print(_counts(built), markup=False)
    console.out.print(f"written: {out}", markup=False)


@app.command()
def overlaps(
    tables: Annotated[list[Path], typer.Argument(metavar="TABLE...", help="Tables of clips of two or more datasets.")],
) -> None:
    """Find sources whose spans are in several datasets or splits, for example in train of one and test of another."""
    from pipelines.manifest.build import read_rows
    from pipelines.manifest.set_operations import shared_between

    found = shared_between([row for table in tables for row in read_rows(table)])
    for one in found:
        (first, second), mark = (
            (" ".join(group) for group in (one.first, one.second)),
            "  SPLIT OVERLAP" if one.splits_overlap else "",
        )
        clips = f"{_number(one.first_clips, 'clip')} of {first} and {_number(one.second_clips, 'clip')} of {second}"
        console.out.print(f"{clips} share spans of the same sources{mark}", markup=False)
    if not found:
        console.out.print("No two datasets share a span of a source.")
    elif any(one.splits_overlap for one in found):
        console.out.print("Leave them out of the training split: uniform manifest build NAME --exclude TABLE")


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(help="Folder of a finished run, index.parquet or manifest.parquet.")],
    second: Annotated[Path, typer.Argument(help="Another one, for example of another lab.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the table of clips that both have, to run or to train on.")
    ] = None,
) -> None:
    """Compare two sets of clips by their ids, and write the clips that both have."""
    from pipelines.manifest.build import write_parquet
    from pipelines.manifest.set_operations import compare, read_clip_ids, rows_of

    found = compare(read_clip_ids(first), read_clip_ids(second))
    both = len(found.both)
    sets = ((first, found.digest_first, found.only_first), (second, found.digest_second, found.only_second))
    for path, digest, only in sets:
        clips = _number(both + len(only), "clip")
        console.out.print(f"{path}: {clips}, digest of their ids {digest}; {len(only):,} only here", markup=False)
    console.out.print(f"in both: {_number(both, 'clip')}, digest of their ids {found.digest_both}", markup=False)
    if out is not None:
        write_parquet(rows_of([first, second], found.both), out)
        console.out.print(f"written: {out}", markup=False)


@app.command("near-duplicates")
def near_duplicates(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run directories with the stage fingerprint_clip.")
    ],
    share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Least share of frames that must match.")] = 0.75,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write one clip of each pair, for `build --exclude`.")
    ] = None,
) -> None:
    """Find clips of different sources that are perceptually the same, also across datasets and splits."""
    from pipelines.manifest.build import write_parquet
    from pipelines.manifest.near_duplicates import find_near_duplicates, read_hashes, to_leave_out

    rows, hashes = read_hashes(runs)
    found = find_near_duplicates(rows, hashes, share)
    for pair in found[:20]:
        names = (
            f"{row.dataset}/{row.split} {row.source_id!r} at {row.start_ms / 1000:g} s"
            for row in (pair.first, pair.second)
        )
        console.out.print(f"  {pair.share:4.0%}  {'  and  '.join(names)}", markup=False)
    across = sum(pair.across_splits for pair in found)
    console.out.print(f"{_number(len(found), 'pair')} among {_number(len(rows), 'clip')}, {across:,} across splits")
    if out is not None:
        write_parquet(to_leave_out(found), out)
        console.out.print(f"written: {out}", markup=False)


def _read(name: str, root: Path | None) -> "Manifest":
    from pipelines.manifest.build import find_manifest, read_manifest

    found = read_manifest(find_manifest(name))
    return found if root is None else found.with_root(root)


def _rows(name: str) -> "list[Row]":
    """The clips of a table, or of a manifest that names its listing."""
    from pipelines.manifest.build import build_rows, find_manifest, read_manifest, read_rows

    path = find_manifest(name)
    return read_rows(path) if path.suffix == ".parquet" else build_rows(read_manifest(path))


def _inspect(manifest: "Manifest", listing: list[Path] | None, schema: str | None, allow_partial: bool) -> "Built":
    from pipelines.manifest.build import inspect

    return inspect(manifest, listing, form=schema, partial=allow_partial)


def _show_warnings(built: "Built") -> None:
    from pipelines.manifest.diagnostics import summary

    problems = built.problems
    if problems.warning_count:
        console.err.print(summary(problems.warnings, problems.warning_count, "warning"), markup=False)


def _counts(built: "Built") -> str:
    """Rows, length and splits, and the schema that each listing was read with."""
    splits: dict[str, int] = {}
    for row in built.rows:
        splits[row.split] = splits.get(row.split, 0) + 1
    clips = _number(len(built.rows), "clip")
    sources = _number(len({row.source_id for row in built.rows}), "source")
    length = _length(sum(row.duration_ms for row in built.rows) / 1000)
    parts = ", ".join(f"{name} {count:,}" for name, count in sorted(splits.items()))
    lines = [f"{built.manifest.name}: {clips} of {sources}, {length} ({parts})"]
    lines += [f"  read with schema '{form}': {path}" for path, form in built.forms]
    dropped = {code: count for code, count in built.problems.dropped.items() if count}
    if dropped:
        by_code = ", ".join(f"{code} {count:,}" for code, count in sorted(dropped.items()))
        lines.append(f"  left out: {sum(dropped.values()):,} ({by_code})")
    return "\n".join(lines)


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _length(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 600 else f"{seconds / 3600:,.1f} h"


def _properties(manifest: "Manifest") -> str:
    table = manifest.table
    properties = {
        "name": table.name,
        "title": table.title,
        "manifest": str(manifest.path),
        "kind": table.kind,
        "root": str(manifest.root) if table.kind in ("local", "archive") else "",
        "license": table.license or "",
        "terms": table.terms.strip(),
        "citation": table.citation.strip(),
        "homepage": table.homepage,
        "listing": table.obtain or table.listing.file or ", ".join(table.listing.glob),
        "schemas": ", ".join(f"{form.name}{f' ({form.rows:,} lines)' if form.rows else ''}" for form in manifest.forms),
    }
    lines = [f"{key:>9}  {value.replace(chr(10), chr(10) + ' ' * 11)}" for key, value in properties.items() if value]
    mapped = {**table.listing.columns.given(), **{f"extra.{key}": value for key, value in table.listing.extra.items()}}
    lines += [f"  {field:>14}  <-  {source}" for field, source in mapped.items()]
    return "\n".join(lines)
