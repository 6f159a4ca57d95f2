"""Members of zip and tar archives, taken out one by one: only plain files, only to our own names, only so large.

An address is the archive's path below the data set's root, a '#', and the member's name: "landscape.zip#fire/a.mp4".
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from pipelines.archive_table import DAMAGE, ArchiveTable, MemberError
from pipelines.clip import Row
from pipelines.fetching.base import Fetched, FetchError
from pipelines.fetching.store import Made, MediaStore
from pipelines.local_paths import OutsideRootError, RootFolder

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

    def fetch(self, row: Row) -> Fetched:
        """The row's member as a file. Raises FetchError with a code."""
        path, member = self._locate(row)
        facts = path.stat()
        scope = f"{row.dataset}\0{facts.st_size}\0{facts.st_mtime_ns}"  # another archive of this name is another source
        key = self._store.key("archive", scope, row.source_uri)
        return self._store.once(key, lambda work: self._take_out(path, member, work))

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
        try:
            table = self._table(path)
            with table.open(member, self._largest) as source, target.open("wb") as file:
                while chunk := source.read(CHUNK_BYTES):
                    file.write(chunk)
                    if file.tell() > self._largest:
                        raise FetchError("too_large", f"{member!r}: more than {self._largest:,} bytes")
        except MemberError as error:
            raise FetchError(error.code, error.reason) from error
        except DAMAGE as error:
            raise FetchError("archive_corrupt", f"{path.name}: {member!r}: {error}") from error
        facts = {"archive": path.name, "member": member}
        return Made(target, PurePosixPath(member).suffix.lower() or ".mp4", facts)

    def _table(self, path: Path) -> ArchiveTable:
        facts = path.stat()
        key = (str(path), facts.st_size, facts.st_mtime_ns)
        if key not in self._tables:
            if len(self._tables) >= OPEN_ARCHIVES:
                self._tables.pop(next(iter(self._tables)))
            self._tables[key] = ArchiveTable(path)
        return self._tables[key]
