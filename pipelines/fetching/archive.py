"""Members of zip and tar archives, taken out one by one: only plain files, only to our own names, only so large.

An address is the archive's path below the dataset's root, a '#', and the member's name: "landscape.zip#fire/a.mp4".
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from pipelines.clip import Row
from pipelines.fetching.base import Fetched, FetchError
from pipelines.fetching.store import Made, MediaStore, kept_suffix
from pipelines.sources.archive import ArchiveTable, MemberError, reading
from pipelines.sources.paths import SEPARATOR, OutsideRootError, RootFolder, split_member

CHUNK_BYTES = 1 << 20
OPEN_ARCHIVES = 8
"""Archives whose table of contents a worker keeps."""


class ArchiveFetcher:
    """Takes members out of archives into a store.

    Args:
        store: receives the members.
        roots: dataset -> folder that holds its archives.
        largest_bytes: of one member, announced or real.
    """

    def __init__(self, store: MediaStore, roots: Mapping[str, Path], largest_bytes: int) -> None:
        self._store, self._largest = store, largest_bytes
        self._roots = {name: RootFolder(root.absolute()) for name, root in roots.items()}
        self._tables: dict[tuple[str, int, int], ArchiveTable] = {}
        self._expected: dict[tuple[str, str], list[Row]] = {}
        self._results: dict[tuple[str, str], Fetched | FetchError] = {}

    def expect(self, rows: Iterable[Row]) -> None:
        """Announce the rows to fetch: rows of one Parquet file are then taken out together, in file order.

        A row costs its whole row group; rows in another order would cost it each time.
        """
        self._expected, self._results = {}, {}
        for row in rows:
            archive = self._archive_of(row)
            if archive.endswith(".parquet"):
                self._expected.setdefault((row.dataset, archive), []).append(row)

    def _archive_of(self, row: Row) -> str:
        """Path of the row's archive, for grouping: what is wrong with it is found when the row is fetched."""
        with contextlib.suppress(OutsideRootError, OSError, KeyError):
            return split_member(row.source_uri, self._roots[row.dataset].find)[1]
        return row.source_uri.partition(SEPARATOR)[0]

    def fetch(self, row: Row) -> Fetched:
        """The row's member as a file. Raises FetchError with a code."""
        asked = (row.dataset, row.source_uri)
        if asked not in self._results:
            self._take_together(row)
        result = self._results.pop(asked) if asked in self._results else self._result(row)
        if isinstance(result, FetchError):
            raise result
        return result

    def _take_together(self, row: Row) -> None:
        """Fetch all expected rows of the row's archive."""
        archive = self._archive_of(row)
        for other in sorted(self._expected.pop((row.dataset, archive), ()), key=_place_in_file):
            self._results[other.dataset, other.source_uri] = self._result(other)
        for table in self._tables.values():
            table.let_go()

    def _result(self, row: Row) -> Fetched | FetchError:
        try:
            with _fetch_errors(), reading(repr(row.source_uri)):
                path, member = self._locate(row)
                status = path.stat()
            # Another archive of this name is another source.
            scope = f"{row.dataset}\0{status.st_size}\0{status.st_mtime_ns}"
            key = self._store.key("archive", scope, row.source_uri)
            return self._store.once(key, lambda work: self._take_out(path, member, work))
        except FetchError as error:
            return error

    def _locate(self, row: Row) -> tuple[Path, str]:
        if row.dataset not in self._roots:
            raise FetchError("missing_source", f"the run has no folder for dataset '{row.dataset}'")
        try:
            path, archive, member = split_member(row.source_uri, self._roots[row.dataset].find)
        except OutsideRootError as error:
            raise FetchError("outside_root", str(error)) from error
        if not member:
            raise FetchError("missing_source", f"{row.source_uri!r} names no member: write archive.zip#member")
        if path is None:
            raise FetchError("missing_source", f"no archive {archive!r} below {self._roots[row.dataset].root}")
        return path, member

    def _take_out(self, path: Path, member: str, work: Path) -> Made:
        target = work / "member"
        with _fetch_errors(), self._table(path).open(member, self._largest) as source, target.open("wb") as file:
            # Only reading is watched: what goes wrong with the store is no fault of the archive.
            written_bytes = 0
            while chunk := _chunk(source, f"{path.name}: {member!r}"):
                file.write(chunk)
                written_bytes += len(chunk)
                if written_bytes > self._largest:
                    raise FetchError("too_large", f"{member!r}: more than {self._largest:,} bytes")
        metadata = {"archive": path.name, "member": member}
        return Made(target, kept_suffix(member), metadata)

    def _table(self, path: Path) -> ArchiveTable:
        with reading(path.name):
            status = path.stat()
        key = (str(path), status.st_size, status.st_mtime_ns)
        if key not in self._tables:
            if len(self._tables) >= OPEN_ARCHIVES:
                self._tables.pop(next(iter(self._tables)))
            self._tables[key] = ArchiveTable(path)
        return self._tables[key]


def _chunk(source: IO[bytes], what: str) -> bytes:
    with reading(what):
        return source.read(CHUNK_BYTES)


def _place_in_file(row: Row) -> tuple[int, str]:
    stem = PurePosixPath(row.source_uri).stem
    return len(stem), stem


@contextlib.contextmanager
def _fetch_errors() -> Iterator[None]:
    try:
        yield
    except MemberError as error:
        raise FetchError(error.code, error.reason) from error
