"""The table of clips: a manifest's listing read, checked, and kept as manifest.parquet.

    data_manifests/vggsound.toml + its listing  ->  manifest.parquet, one row per clip (`pipelines.clip.Row`)

`read_manifest` reads the TOML, `build_rows` the listing, `write_parquet` and `read_rows` the table.
"""

import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.clip import Row
from pipelines.manifest import gc_paused as collector
from pipelines.manifest.dataset import Manifest, find_manifest, read_manifest
from pipelines.manifest.diagnostics import Problems, quoted
from pipelines.manifest.label_names import read_label_names
from pipelines.manifest.listing_reader import Record, begins_like, read_records
from pipelines.manifest.listing_schema import Listing
from pipelines.manifest.overlaps import check_leaks, first_of_each, settle_duplicates
from pipelines.manifest.rows import RowMaker
from pipelines.manifest.scan import found_files, found_members, skipped_media
from pipelines.manifest.table import SCHEMA, batch_of, rows_of
from pipelines.sources.paths import OutsideRootError, RootFolder
from uniform.atomic import replacing
from uniform.config import nearest
from uniform.errors import ManifestError
from uniform.tables import LOCAL, local_name

__all__ = [
    "Built",
    "Manifest",
    "build_rows",
    "clips_of",
    "find_manifest",
    "inspect",
    "read_manifest",
    "read_rows",
    "write_parquet",
]

_log = logging.getLogger(__name__)

WRITE_ROWS = 16_384


def clips_of(
    path: Path, listing: Path | None = None, root: Path | None = None, *, partial: bool = False
) -> tuple[list[Row], dict[str, Path]]:
    """The clips of a manifest, or of a table that was built before, and the folder of each data set in it.

    Args:
        path: a TOML file, or a manifest.parquet.
        listing: for a manifest that does not bring its own.
        root: folder of the media; a table of local files or archives needs it.
        partial: accept a listing that holds another number of lines than was published.
    Raises: ManifestError, ConfigError.
    """
    if path.suffix != ".parquet":
        manifest = read_manifest(path)
        manifest = manifest if root is None else manifest.with_root(root)
        return build_rows(manifest, listing, partial=partial), {manifest.name: manifest.root}
    if listing is not None:
        raise ManifestError(f"{path} is a table of clips; --listing goes with a manifest (TOML)")
    rows = read_rows(path)
    if not rows:
        raise ManifestError(f"{path}: the table holds no clip. Build it again: uniform manifest build MANIFEST")
    if root is None and any(row.source_kind in ("local", "archive") for row in rows):
        raise ManifestError(
            f"{path}: its clips are files, and a table does not say where. Give their folder by --root."
        )
    return rows, {row.dataset: (root or path.parent).absolute() for row in rows}


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
    skipped_media: str | None = None
    """That media files match no pattern, in one sentence; also among the warnings."""


def build_rows(
    manifest: Manifest,
    listing: Path | Sequence[Path] | None = None,
    *,
    form: str | None = None,
    partial: bool = False,
) -> list[Row]:
    """The clips of a data set, in the order of its listing.

    Args:
        manifest: from `read_manifest`.
        listing: the listing's file, or several that together are the listing; None takes the manifest's own.
        form: name of the form that it has; None recognises it.
        partial: accept a listing that holds another number of lines than was published.
    Raises: ManifestError with the first 20 problems and their number, each with file, line, column and fix.
    """
    built = inspect(manifest, listing, form=form, partial=partial)
    if built.skipped_media:
        _log.warning("%s: %s", manifest.name, built.skipped_media)
    built.problems.raise_if_any(f"{manifest.name}: its listing cannot be used")
    return built.rows


def inspect(
    manifest: Manifest,
    listing: Path | Sequence[Path] | None = None,
    *,
    form: str | None = None,
    partial: bool = False,
) -> Built:
    """As `build_rows`, but problems are handed back with what could be read. Raises ManifestError for a lost file."""
    built = Built(manifest)
    own = manifest.forms[0]
    paths = [listing] if isinstance(listing, Path) else list(listing or ())
    if not paths and own.file is None and not own.glob:
        obtain = f" ({manifest.table.obtain})" if manifest.table.obtain else ""
        found = f"{manifest.path}: the listing is not part of the toolkit{obtain}"
        raise ManifestError(f"{found}. Give it by --listing FILE.")
    if not paths:
        paths = [manifest.path.parent / own.file] if own.file else [manifest.root]
    if manifest.kind in ("local", "archive") and not manifest.root.is_dir():
        raise ManifestError(f"{manifest.path}: its root {manifest.root} is not a folder. Set root, or give --root.")
    places: list[tuple[str, int]] = []
    used = own
    with collector.resting():
        for path in paths:
            used = _recognise(manifest, path, form)
            built.forms.append((path, used.name))
            _read_one(manifest, path, used, built, places, partial)
        _check_whole(built, used, places)
    return built


def _read_one(
    manifest: Manifest, path: Path, form: Listing, built: Built, places: list[tuple[str, int]], partial: bool
) -> None:
    """Add the rows of one listing."""
    lines, before, matched = 0, len(built.rows), set[str]()
    maker = _row_maker(manifest, form, built.problems)
    name = str(path)
    for record in _records(manifest, path, form, built.problems):
        lines += 1
        matched.update([record.values["path"]] if form.glob else ())
        row = maker.row(f"{path}:{record.line}", record)
        if row is not None:
            built.rows.append(row)
            places.append((name, record.line))
    if not partial:
        _check_count(manifest, form, name, "data lines", lines, form.rows, built.problems)
    _check_files(manifest, built, before, places)
    if form.glob and manifest.kind == "local":
        _check_skipped_media(manifest, built, matched)
    keep = settle_duplicates(built.rows, form, lambda n: _place(places, n), built.problems)
    built.rows[:] = [built.rows[n] for n in keep]
    places[:] = [places[n] for n in keep]
    if not partial:
        _check_count(manifest, form, name, "clips", len(built.rows) - before, form.clips, built.problems)


def _check_count(
    manifest: Manifest, form: Listing, name: str, what: str, found: int, published: int | None, problems: Problems
) -> None:
    if published is not None and found != published:
        obtain = f" ({manifest.table.obtain})" if manifest.table.obtain else ""
        fix = f"Lines are missing or added: get the listing again{obtain}, or pass --partial."
        problems.error(name, None, f"{found:,} {what}", f"the published {published:,} ('{form.name}')", fix)


def _check_whole(built: Built, form: Listing, places: list[tuple[str, int]]) -> None:
    """What needs all rows: that there are any, and that no source stands in two splits."""
    dropped = check_leaks(built.rows, form, lambda n: _place(places, n), built.problems)
    built.rows[:] = [built.rows[n] for n in first_of_each(built.rows, dropped)]
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


def _recognise(manifest: Manifest, path: Path, name: str | None) -> Listing:
    """The form called `name`, or the one that the listing's first lines and its number of lines fit."""
    forms = manifest.forms
    if name is not None:
        known = {form.name: form for form in forms}
        if name not in known:
            raise ManifestError(f"{manifest.path}: there is no form '{name}'{nearest(name, known)}")
        return known[name]
    if len(forms) == 1 or forms[0].glob:
        return forms[0]
    counts = [_sample_errors(manifest, path, form) for form in forms]
    fewest = min(counts)
    fitting = [form for form, count in zip(forms, counts, strict=True) if count == fewest]
    if len(fitting) > 1 and fewest == 0:
        lines = sum(1 for _ in read_records(path, fitting[0], Problems()))
        return next((form for form in fitting if form.rows == lines), fitting[0])
    return fitting[0]


def _sample_errors(manifest: Manifest, path: Path, form: Listing) -> int:
    """Problems among the first lines of the listing, read as `form`; a large number where it begins otherwise."""
    if not begins_like(path, form):
        return SAMPLE_RECORDS + 1
    problems = Problems()
    maker = _row_maker(manifest, form, problems)
    for record in itertools.islice(read_records(path, form, problems), SAMPLE_RECORDS):
        maker.row(str(path), record)
    return problems.error_count


def _row_maker(manifest: Manifest, form: Listing, problems: Problems) -> RowMaker:
    names = read_label_names(manifest.path.parent, form.label_names) if form.label_names else {}
    return RowMaker(manifest.name, manifest.kind, manifest.table.license, form, names, problems)


def _records(manifest: Manifest, path: Path, form: Listing, problems: Problems) -> Iterable[Record]:
    if not form.glob:
        return read_records(path, form, problems)
    find = found_members if manifest.kind == "archive" else found_files
    return find(manifest.root, form.glob, sidecars="sidecar" in form.wanted_columns())


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


def _check_skipped_media(manifest: Manifest, built: Built, matched: set[str]) -> None:
    """Note media files that no pattern matches: IMG_0003.MP4 of a camera is no match of *.mp4."""
    files = skipped_media(manifest.root, matched)
    if not files:
        return
    count = f"{len(files):,} media file{'' if len(files) == 1 else 's'}"
    found = f"{count} below {manifest.root} match no pattern; the first is {quoted(files[0])}"
    fix = f'Patterns tell capital letters from small ones: add "**/*{Path(files[0]).suffix}" to listing.glob for them.'
    built.skipped_media = f"{found}. {fix}"
    built.problems.warn(str(manifest.path), None, found, "a clip of each, as a rule", fix)


def write_parquet(rows: Iterable[Row], path: Path) -> None:
    """Write `rows` to `path`, whole or not at all; the same rows give the same bytes."""
    with (
        collector.resting(),
        replacing(path) as temporary,
        pq.ParquetWriter(local_name(temporary), SCHEMA, compression="zstd", filesystem=LOCAL) as writer,
    ):
        part: list[Row] = []
        for row in rows:
            part.append(row)
            if len(part) == WRITE_ROWS:
                writer.write_batch(batch_of(part))
                part = []
        writer.write_batch(batch_of(part))


def read_rows(path: Path) -> list[Row]:
    """The rows of a manifest.parquet. Raises ManifestError where it is missing or is no such table."""
    try:
        file = pq.ParquetFile(local_name(path), filesystem=LOCAL)
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
            with collector.resting():
                return [row for batch in file.iter_batches(WRITE_ROWS) for row in rows_of(batch)]
        except (OSError, pa.ArrowException) as error:
            raise ManifestError(f"{path}: damaged ({error}). Make it anew: uniform manifest build MANIFEST") from error
