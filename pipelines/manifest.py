"""The table of clips: a manifest's listing read, checked, and kept as manifest.parquet.

    data_manifests/vggsound.toml + its listing  ->  manifest.parquet, one row per clip (`pipelines.clip.Row`)

`read_manifest` reads the TOML, `build_rows` the listing, `write_parquet` and `read_rows` the table.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.clip import Row
from pipelines.dataset import Manifest, find_manifest, read_manifest
from pipelines.label_names import read_label_names
from pipelines.listing_checks import check_leaks, first_of_each, settle_duplicates
from pipelines.listing_form import Listing
from pipelines.listing_text import Record, begins_like, read_records
from pipelines.local_paths import OutsideRootError, RootFolder, found_files
from pipelines.problems import Problems
from pipelines.sources import RowMaker
from uniform.atomic import replacing
from uniform.errors import ManifestError

__all__ = ["Built", "Manifest", "build_rows", "find_manifest", "inspect", "read_manifest", "read_rows", "write_parquet"]

SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("source_kind", pa.string(), nullable=False),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("source_uri", pa.string(), nullable=False),
        pa.field("start_ms", pa.int64(), nullable=False),
        pa.field("duration_ms", pa.int64(), nullable=False),
        pa.field("labels", pa.list_(pa.string()), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("caption_origin", pa.string()),
        pa.field("expected_digest", pa.string()),
        pa.field("license", pa.string()),
        pa.field("extra", pa.map_(pa.string(), pa.string()), nullable=False),
    ],
    metadata={"format": "uniform manifest 1"},
)
"""Columns of manifest.parquet: the fields of `pipelines.clip.Row`, in their order."""
WRITE_ROWS = 16_384


SAMPLE_RECORDS = 50
"""Lines read to recognise which of its forms a listing has."""


@dataclass
class Built:
    """A manifest's rows, and what was noticed on the way."""

    manifest: Manifest
    rows: list[Row] = field(default_factory=list)
    forms: list[tuple[Path, str]] = field(default_factory=list)
    """Listing file -> the form it was read as."""
    problems: Problems = field(default_factory=Problems)


def build_rows(manifest: Manifest, listing: Path | Sequence[Path] | None = None, *, partial: bool = False) -> list[Row]:
    """The clips of a data set, in the order of its listing.

    Args:
        manifest: from `read_manifest`.
        listing: the listing's file, or several that together are the listing; None takes the manifest's own.
        partial: accept a listing that holds another number of lines than was published.
    Raises: ManifestError with the first 20 problems and their number, each with file, line, column and fix.
    """
    built = inspect(manifest, listing, partial=partial)
    built.problems.raise_if_any(f"{manifest.name}: its listing cannot be used")
    return built.rows


def inspect(manifest: Manifest, listing: Path | Sequence[Path] | None = None, *, partial: bool = False) -> Built:
    """As `build_rows`, but problems are handed back with what could be read. Raises ManifestError for a lost file."""
    built = Built(manifest)
    paths = [listing] if isinstance(listing, Path) else list(listing or ())
    form = manifest.forms[0]
    if not paths and not form.glob:
        if form.file is None:
            obtain = f" ({manifest.table.obtain})" if manifest.table.obtain else ""
            raise ManifestError(
                f"{manifest.path}: the listing is not part of the toolkit{obtain}. Give it by --listing FILE."
            )
        paths = [manifest.path.parent / form.file]
    if manifest.kind in ("local", "archive") and not manifest.root.is_dir():
        raise ManifestError(f"{manifest.path}: its root {manifest.root} is not a folder. Set root, or give --root.")
    places: list[tuple[str, int]] = []
    for path in paths or [manifest.root]:
        form = _read_one(manifest, path, built, places, partial)
    _check_whole(built, form, places)
    return built


def _read_one(manifest: Manifest, path: Path, built: Built, places: list[tuple[str, int]], partial: bool) -> Listing:
    """Add the rows of one listing; returns the form it has."""
    form = _recognise(manifest, path)
    built.forms.append((path, form.name))
    lines, before = 0, len(built.rows)
    maker = _row_maker(manifest, form, built.problems)
    name = sys.intern(str(path))
    for record in _records(manifest, path, form, built.problems):
        lines += 1
        row = maker.row(f"{path}:{record.line}", record)
        if row is not None:
            built.rows.append(row)
            places.append((name, record.line))
    if form.rows is not None and lines != form.rows and not partial:
        fix = f"Lines are missing or added: get the listing again{_from(manifest)}, or pass --partial."
        built.problems.error(name, None, f"{lines:,} data lines", f"the published {form.rows:,} ({form.name})", fix)
    _check_files(manifest, built, before, places)
    keep = settle_duplicates(built.rows, form, lambda n: _place(places, n), built.problems)
    built.rows[:] = [built.rows[n] for n in keep]
    places[:] = [places[n] for n in keep]
    clips = len(built.rows) - before
    if form.clips is not None and clips != form.clips and not partial and not built.problems.error_count:
        fix = f"Get the listing again{_from(manifest)}, or pass --partial."
        built.problems.error(name, None, f"{clips:,} clips", f"the published {form.clips:,} ({form.name})", fix)
    return form


def _check_whole(built: Built, form: Listing, places: list[tuple[str, int]]) -> None:
    """What needs all rows: that there are any, and that no source stands in two splits."""
    check_leaks(built.rows, form, lambda n: _place(places, n), built.problems)
    built.rows[:] = [built.rows[n] for n in first_of_each(built.rows)]
    if built.rows or built.problems.error_count:
        return
    where, wanted = str(built.forms[0][0]), "at least one clip"
    if form.glob:
        found = f"no file that matches {', '.join(form.glob)}"
        built.problems.error(where, None, found, wanted, "Check root and listing.glob.")
    else:
        built.problems.error(where, None, "no data line", wanted, "Is the file empty, or all comments?")


def _place(places: Sequence[tuple[str, int]], number: int) -> str:
    name, line = places[number]
    return f"{name}:{line}"


def _from(manifest: Manifest) -> str:
    return f" ({manifest.table.obtain})" if manifest.table.obtain else ""


def _recognise(manifest: Manifest, path: Path) -> Listing:
    """The form whose first lines read without a problem; the one with the fewest problems where none does."""
    forms = manifest.forms
    if len(forms) == 1 or forms[0].glob:
        return forms[0]
    counts = []
    for number, form in enumerate(forms):
        problems = Problems()
        if begins_like(path, form):
            maker = _row_maker(manifest, form, problems)
            records = read_records(path, form, problems)
            sample = [maker.row(str(path), record) for record, _ in zip(records, range(SAMPLE_RECORDS), strict=False)]
            if sample and not problems.error_count:
                return form
            counts.append((problems.error_count, number))
    return forms[min(counts, default=(0, 0))[1]]


def _row_maker(manifest: Manifest, form: Listing, problems: Problems) -> RowMaker:
    names = read_label_names(manifest.path.parent, form.label_names) if form.label_names else {}
    return RowMaker(manifest.name, manifest.kind, manifest.table.license, form, names, problems)


def _records(manifest: Manifest, path: Path, form: Listing, problems: Problems) -> Iterable[Record]:
    return found_files(manifest.root, form.glob) if form.glob else read_records(path, form, problems)


def _check_files(manifest: Manifest, built: Built, before: int, places: list[tuple[str, int]]) -> None:
    """Note local files that are missing (a warning: they may come) or lie outside the root (an error)."""
    folder = RootFolder(manifest.root)
    for number in range(before, len(built.rows)):
        row = built.rows[number]
        if row.source_kind != "local":
            continue
        place = _place(places, number)
        try:
            if folder.find(row.source_uri) is None:
                fix = "The clip will leave the run as missing_source."
                built.problems.warn(place, None, f"no file {row.source_uri!r}", f"a file below {manifest.root}", fix)
        except OutsideRootError as error:
            fix = "Copy the file there, or set root to the folder that holds it."
            built.problems.error(place, None, str(error), "a file inside the data set's root", fix)


def write_parquet(rows: Iterable[Row], path: Path) -> None:
    """Write `rows` to `path`, whole or not at all; the same rows give the same bytes."""
    with replacing(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        part: list[Row] = []
        for row in rows:
            part.append(row)
            if len(part) == WRITE_ROWS:
                writer.write_batch(_batch(part))
                part = []
        writer.write_batch(_batch(part))


def _batch(rows: list[Row]) -> pa.RecordBatch:
    columns: dict[str, list[object]] = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    columns["extra"] = [sorted(row.extra.items()) for row in rows]
    return pa.record_batch([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def read_rows(path: Path) -> list[Row]:
    """The rows of a manifest.parquet. Raises ManifestError where it is missing or is no such table."""
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(
            f"{path}: not a manifest table ({error}). Make it: uniform manifest build MANIFEST"
        ) from error
    with file:
        if not file.schema_arrow.equals(SCHEMA):
            raise ManifestError(
                f"{path}: its columns are {', '.join(file.schema_arrow.names)}; wanted {', '.join(SCHEMA.names)}. "
                f"Make the table anew: uniform manifest build MANIFEST"
            )
        try:
            return [row for batch in file.iter_batches(WRITE_ROWS) for row in _rows(batch)]
        except (OSError, pa.ArrowException) as error:
            raise ManifestError(f"{path}: damaged ({error}). Make it anew: uniform manifest build MANIFEST") from error


_SHARED: tuple[str, ...] = ("dataset", "split", "source_kind", "caption_origin", "license")
"""Columns of few different values: their rows share one text each."""


def _rows(batch: pa.RecordBatch) -> Iterable[Row]:
    columns = {name: batch.column(name).to_pylist() for name in SCHEMA.names}
    for name in _SHARED:
        columns[name] = [None if text is None else sys.intern(text) for text in columns[name]]
    labels: dict[tuple[str, ...], tuple[str, ...]] = {}
    columns["labels"] = [labels.setdefault(key, key) for key in map(tuple, columns["labels"])]
    columns["extra"] = [dict(pairs) for pairs in columns["extra"]]
    for values in zip(*columns.values(), strict=True):
        yield Row(**dict(zip(columns, values, strict=True)))
