"""Members of zip and tar archives, taken out one by one: only plain files, only to our own names, only so large.

An address is the archive's path below the data set's root, a '#', and the member's name: "landscape.zip#fire/a.mp4".
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from pipelines.clip import Row
from pipelines.fetching.base import Fetched, FetchError
from pipelines.fetching.store import Made, MediaStore, kept_suffix
from pipelines.sources.archive import ArchiveTable, MemberError, reading
from pipelines.sources.paths import OutsideRootError, RootFolder

CHUNK_BYTES = 1 << 20
SEPARATOR = "#"
OPEN_ARCHIVES = 8
"""Archives whose table of contents a worker keeps."""


class ArchiveFetcher:
    """Takes members out of archives into a store.

    Args:
        store: receives the members.
        roots: data set -> folder that holds its archives.
        largest_bytes: of one member, announced or real.
    """

    def __init__(self, store: MediaStore, roots: Mapping[str, Path], largest_bytes: int) -> None:
        self._store, self._largest = store, largest_bytes
        self._roots = {name: RootFolder(root.absolute()) for name, root in roots.items()}
        self._tables: dict[tuple[str, int, int], ArchiveTable] = {}
        self._expected: dict[tuple[str, str], list[Row]] = {}
        self._outcomes: dict[tuple[str, str], Fetched | FetchError] = {}

    def expect(self, rows: Iterable[Row]) -> None:
        """Say which rows will be asked for: those of one Parquet file are then taken out together, in its order.

        A row of such a file costs its whole row group, so that rows in an order of their own would cost it each time.
        """
        self._expected, self._outcomes = {}, {}
        for row in rows:
            archive, _, _ = row.source_uri.partition(SEPARATOR)
            if archive.endswith(".parquet"):
                self._expected.setdefault((row.dataset, archive), []).append(row)

    def fetch(self, row: Row) -> Fetched:
        """The row's member as a file. Raises FetchError with a code."""
        asked = (row.dataset, row.source_uri)
        if asked not in self._outcomes:
            self._take_together(row)
        outcome = self._outcomes.pop(asked) if asked in self._outcomes else self._outcome(row)
        if isinstance(outcome, FetchError):
            raise outcome
        return outcome

    def _take_together(self, row: Row) -> None:
        """Have the outcomes of all expected rows of the row's archive."""
        archive, _, _ = row.source_uri.partition(SEPARATOR)
        for other in sorted(self._expected.pop((row.dataset, archive), ()), key=_place_in_file):
            self._outcomes[other.dataset, other.source_uri] = self._outcome(other)
        for table in self._tables.values():
            table.let_go()

    def _outcome(self, row: Row) -> Fetched | FetchError:
        try:
            with _fetch_errors(), reading(repr(row.source_uri)):
                path, member = self._locate(row)
                facts = path.stat()
            # Another archive of this name is another source.
            scope = f"{row.dataset}\0{facts.st_size}\0{facts.st_mtime_ns}"
            key = self._store.key("archive", scope, row.source_uri)
            return self._store.once(key, lambda work: self._take_out(path, member, work))
        except FetchError as error:
            return error

    def _locate(self, row: Row) -> tuple[Path, str]:
        archive, separator, member = row.source_uri.partition(SEPARATOR)
        if row.dataset not in self._roots:
            raise FetchError("missing_source", f"the run knows no folder of data set '{row.dataset}'")
        if not separator or not member:
            raise FetchError("missing_source", f"{row.source_uri!r} names no member: write archive.zip#member")
        try:
            path = self._roots[row.dataset].find(archive)
        except OutsideRootError as error:
            raise FetchError("outside_root", str(error)) from error
        if path is None:
            raise FetchError("missing_source", f"no archive {archive!r} below {self._roots[row.dataset].root}")
        return path, member

    def _take_out(self, path: Path, member: str, work: Path) -> Made:
        target = work / "member"
        with _fetch_errors(), self._table(path).open(member, self._largest) as source, target.open("wb") as file:
            # Only reading is watched: what goes wrong with the store is no fault of the archive.
            while chunk := _chunk(source, f"{path.name}: {member!r}"):
                file.write(chunk)
                if file.tell() > self._largest:
                    raise FetchError("too_large", f"{member!r}: more than {self._largest:,} bytes")
        facts = {"archive": path.name, "member": member}
        return Made(target, kept_suffix(member), facts)

    def _table(self, path: Path) -> ArchiveTable:
        with reading(path.name):
            facts = path.stat()
        key = (str(path), facts.st_size, facts.st_mtime_ns)
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
