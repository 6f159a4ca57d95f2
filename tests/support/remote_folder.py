"""A folder of shards in fsspec's store in memory, whose requests can be counted and made to fail."""

from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

Answer = Callable[[str, bytes], bytes]


class Store:
    """What a test sees and changes of the remote side."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.url = "memory://bucket/shards"
        self.requests: list[tuple[str, int]] = []
        """File name and bytes of every range that was read."""
        self.answer: Answer = lambda _, content: content
        """Returns the bytes to serve for a file's name and its bytes, or raises."""
        self.files = fsspec.filesystem("memory")
        truth = MemoryFileSystem.cat_file

        def cat_file(files: MemoryFileSystem, path: str, start: int | None = None, end: int | None = None) -> bytes:
            content: bytes = truth(files, path, start=start, end=end)
            name = Path(path).name
            self.requests.append((name, len(content)))
            return self.answer(name, content)

        monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)

    def upload(self, folder: Path) -> None:
        """Copy a local folder."""
        for path in folder.iterdir():
            self.files.pipe(f"/bucket/shards/{path.name}", path.read_bytes())

    def fetched_bytes(self) -> int:
        """Bytes of shards that were read so far."""
        return sum(size for name, size in self.requests if name.endswith(".tar"))
