"""The table of clips: a manifest's listing read, checked, and kept as manifest.parquet.

    data_manifests/vggsound.toml + its listing  ->  manifest.parquet, one row per clip (`pipelines.clip.Row`)

`read_manifest` reads the TOML, `build_rows` the listing; the table itself is in `pipelines.manifest.table`.
"""

import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipelines.clip import Row
from pipelines.manifest.dataset import Manifest, find_manifest, read_manifest
from pipelines.manifest.diagnostics import Problems, quoted, summary
from pipelines.manifest.gc_paused import gc_paused
from pipelines.manifest.label_names import read_label_names
from pipelines.manifest.listing_reader import Record, begins_like, read_records
from pipelines.manifest.listing_schema import Listing
from pipelines.manifest.overlaps import check_split_overlaps, first_of_each, resolve_duplicates
from pipelines.manifest.rows import RowMaker
from pipelines.manifest.scan import found_files, found_members, skipped_media
from pipelines.manifest.table import read_rows, write_parquet
from pipelines.manifest.unread import Unread
from pipelines.sources.paths import OutsideRootError, RootFolder
from uniform.config import nearest
from uniform.errors import ManifestError

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


def clips_of(
    path: Path, listing: Path | None = None, root: Path | None = None, *, partial: bool = False
) -> tuple[list[Row], dict[str, Path]]:
    """The clips of a manifest, or of a table that was built before, and the folder of each dataset in it.

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


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands."""

    name: str
    """Of the listing."""
    line: int
    file: str | None
    """Identity of its file, where that is known: equal for two paths of one file."""


@dataclass
class Built:
    """A manifest's rows, and the problems found while reading."""

    manifest: Manifest
    rows: list[Row] = field(default_factory=list)
    forms: list[tuple[Path, str]] = field(default_factory=list)
    """Listing file -> the form it was read as."""
    problems: Problems = field(default_factory=Problems)
    notices: list[str] = field(default_factory=list)
    """What is not read, one sentence for each reason; also among the warnings."""


def build_rows(
    manifest: Manifest,
    listing: Path | Sequence[Path] | None = None,
    *,
    form: str | None = None,
    partial: bool = False,
) -> list[Row]:
    """The clips of a dataset, in the order of its listing.

    Args:
        manifest: from `read_manifest`.
        listing: the listing's file, or several that together are the listing; None takes the manifest's own.
        form: name of the form that it has; None recognises it.
        partial: accept a listing that holds another number of lines than was published.
    Raises: ManifestError with the first 20 problems and their number, each with file, line, column and fix.
    """
    built = inspect(manifest, listing, form=form, partial=partial)
    for notice in built.notices:
        _log.warning("%s: %s", manifest.name, notice)
    if built.problems.dropped["bad_line"]:
        worst = summary(built.problems.warnings, built.problems.warning_count, "warning")
        _log.warning("%s: %s bad lines are left out\n%s", manifest.name, built.problems.dropped["bad_line"], worst)
    built.problems.raise_if_any(f"{manifest.name}: its listing cannot be used")
    return built.rows


def inspect(
    manifest: Manifest,
    listing: Path | Sequence[Path] | None = None,
    *,
    form: str | None = None,
    partial: bool = False,
) -> Built:
    """As `build_rows`, but returns the problems with the rows that could be read. Raises ManifestError: no file."""
    own = manifest.forms[0]
    built = Built(manifest, problems=Problems(own.on_problem))
    paths = [listing] if isinstance(listing, Path) else list(listing or ())
    if not paths and own.file is None and not own.glob:
        obtain = f" ({manifest.table.obtain})" if manifest.table.obtain else ""
        found = f"{manifest.path}: the listing is not part of the toolkit{obtain}"
        raise ManifestError(f"{found}. Give it by --listing FILE.")
    if not paths:
        paths = [manifest.path.parent / own.file] if own.file else [manifest.root]
    if manifest.kind in ("local", "archive") and not manifest.root.is_dir():
        raise ManifestError(f"{manifest.path}: its root {manifest.root} is not a folder. Set root, or give --root.")
    places: list[Place] = []
    used = own
    with gc_paused():
        for path in paths:
            used = _detect_schema(manifest, path, form)
            built.forms.append((path, used.name))
            _read_one(manifest, path, used, built, places, partial)
        _check_whole(built, used, places)
    return built


def _read_one(manifest: Manifest, path: Path, form: Listing, built: Built, places: list[Place], partial: bool) -> None:
    """Add the rows of one listing."""
    lines, before, matched = 0, len(built.rows), set[str]()
    maker = _row_maker(manifest, form, built.problems)
    name = str(path)
    unread = Unread()
    for record in _records(manifest, path, form, built.problems, unread):
        lines += 1
        matched.update([record.values["path"]] if form.glob else ())
        row = maker.row(f"{path}:{record.line}", record)
        if row is not None:
            built.rows.append(row)
            places.append(Place(name, record.line, record.identity))
    if not partial:
        _check_count(manifest, form, name, "data lines", lines, form.rows, built.problems)
    _check_files(manifest, built, before, places, unread if form.glob else None)
    if form.glob and manifest.kind == "local":
        left_out = {name for names in unread.names.values() for name in names}
        _check_skipped_media(manifest, built, matched | left_out)
    built.notices += unread.report(str(manifest.path), built.problems)
    keep = resolve_duplicates(built.rows, form, lambda n: _place(places, n), built.problems)
    built.rows[:] = [built.rows[n] for n in keep]
    places[:] = [places[n] for n in keep]
    if not partial:
        _check_count(manifest, form, name, "clips", len(built.rows) - before, form.clips, built.problems)


def _check_count(
    manifest: Manifest, form: Listing, name: str, what: str, found: int, published: int | None, problems: Problems
) -> None:
    if published is not None and found != published:
        obtain = f" ({manifest.table.obtain})" if manifest.table.obtain else ""
        fix = f"Lines are missing or added: get the listing again{obtain}, or pass --allow-partial."
        problems.error(name, None, f"{found:,} {what}", f"the published {published:,} ('{form.name}')", fix)


def _check_whole(built: Built, form: Listing, places: list[Place]) -> None:
    """Check that there are rows, and that no source is in two splits."""
    files = [place.file for place in places]
    dropped = check_split_overlaps(built.rows, form, lambda n: _place(places, n), built.problems, files)
    built.rows[:] = [built.rows[n] for n in first_of_each(built.rows, dropped)]
    if built.rows or built.problems.error_count:
        return
    where, wanted = str(built.forms[0][0]), "at least one clip"
    if form.glob:
        found = f"no file that matches {', '.join(form.glob)}"
        built.problems.error(where, None, found, wanted, "Check root and listing.glob.")
    elif built.problems.dropped:
        found = f"none: {built.problems.dropped.total():,} lines are left out as bad"
        built.problems.error(where, None, found, wanted, "See the warnings for what is wrong with them.")
    else:
        built.problems.error(where, None, "no data line", wanted, "Is the file empty, or all comments?")


def _place(places: Sequence[Place], number: int) -> str:
    return f"{places[number].name}:{places[number].line}"


def _detect_schema(manifest: Manifest, path: Path, name: str | None) -> Listing:
    """The form called `name`, or the one that the listing's first lines and its number of lines fit."""
    forms = manifest.forms
    if name is not None:
        known = {form.name: form for form in forms}
        if name not in known:
            raise ManifestError(f"{manifest.path}: there is no schema '{name}'{nearest(name, known)}")
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


def _records(manifest: Manifest, path: Path, form: Listing, problems: Problems, unread: Unread) -> Iterable[Record]:
    if not form.glob:
        return read_records(path, form, problems)
    find = found_members if manifest.kind == "archive" else found_files
    return find(manifest.root, form, unread)


def _check_files(manifest: Manifest, built: Built, before: int, places: list[Place], unread: Unread | None) -> None:
    """Note local files that are missing (a warning: they may come) or lie outside the root (an error, or dropped).

    Args:
        before: number of the first row to look at.
        unread: counts found files that lie outside; None for the rows of a listing.
    """
    folder = RootFolder(manifest.root)
    outside = set()
    for number in range(before, len(built.rows)):
        row = built.rows[number]
        if row.source_kind != "local":
            continue
        place = _place(places, number)
        try:
            found = folder.find(row.source_uri)
            if found is None:
                fix = "The clip will be dropped as missing_source."
                built.problems.warn(place, None, f"no file {row.source_uri!r}", f"a file below {manifest.root}", fix)
            else:
                places[number] = replace(places[number], file=folder.identity(found))
        except OutsideRootError as error:
            outside.add(number)
            if unread is not None:
                unread.add("outside_root", row.source_uri)
                continue
            fix = "Copy the file there, or set root to the folder that holds it."
            built.problems.bad_line(place, None, str(error), "a file inside the dataset's root", fix)
        except OSError as error:
            built.problems.warn(place, None, f"{row.source_uri!r}: {error.strerror}", "a readable file")
    if outside:
        keep = [number for number in range(len(built.rows)) if number not in outside]
        built.rows[:] = [built.rows[number] for number in keep]
        places[:] = [places[number] for number in keep]


def _check_skipped_media(manifest: Manifest, built: Built, matched: set[str]) -> None:
    """Note media files that no pattern matches: IMG_0003.MP4 of a camera is no match of *.mp4."""
    files = skipped_media(manifest.root, matched)
    if not files:
        return
    count = f"{len(files):,} media file{'' if len(files) == 1 else 's'}"
    found = f"{count} below {manifest.root} match no pattern; the first is {quoted(files[0])}"
    fix = f'Patterns are case-sensitive: add "**/*{Path(files[0]).suffix}" to listing.glob for them.'
    built.notices.append(f"{found}. {fix}")
    built.problems.warn(str(manifest.path), None, found, "a clip of each, as a rule", fix)
