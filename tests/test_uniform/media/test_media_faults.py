"""A failing disk is not damage of the file: the clip can be retried, and damage has its own code."""

import errno
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import av
import pytest

from tests.support.media_files import write_numbered
from uniform.media.child import _answer
from uniform.media.container import open_source, refuse_unreadable
from uniform.spec import TOY

FAILING = Path("/proc/self/mem")
"""A file that opens, but whose first byte cannot be read: the kernel returns EIO."""
FAULTS = [errno.EIO, errno.ESTALE, errno.EACCES]
needs_proc = pytest.mark.skipif(not FAILING.exists(), reason="no /proc")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered(tmp_path_factory.mktemp("base") / "base.mp4")


class Faulty:
    """A container whose every read fails as FFmpeg says it, over a disk that fails or over one that does not."""

    def __init__(self, container: Any, path: Path) -> None:
        self._container, self.name = container, f"file:{path}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def _fail(self, *args: object, **options: object) -> None:
        raise av.error.OSError(errno.EIO, "Input/output error")

    demux = seek = _fail


def answer(path: Path, folder: Path) -> dict[str, Any]:
    return _answer({"path": str(path), "request": {"spec": asdict(TOY)}, "mp4": None}, folder)


@pytest.mark.parametrize("number", FAULTS)
def test_an_error_of_the_operating_system_is_an_unreadable_source(
    number: int, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("uniform.media.container.refuse_damaged_structure", failing)

    found = answer(base, tmp_path)
    assert (found["code"], found["reason"]) == (
        "unreadable_source",
        f"exists but cannot be read ({os.strerror(number)})",
    )


def test_an_input_error_of_a_readable_file_is_damage(base: Path) -> None:
    refuse_unreadable(base, av.error.OSError(errno.EIO, "Input/output error"))
    refuse_unreadable(FAILING, av.InvalidDataError(1, "damaged"))


@needs_proc
def test_a_disk_that_fails_half_way_is_not_reported_as_damage(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def code_over(disk: Path) -> str:
        source = open_source(base)
        faulty = replace(source, container=Faulty(source.container, disk))
        monkeypatch.setattr("uniform.media.decode.open_source", lambda path: faulty)
        return str(answer(base, tmp_path)["code"])

    assert code_over(FAILING) == "unreadable_source"
    assert code_over(base) == "decode_corrupt"
