"""Fetch published weights, record their digests, and verify files against the record."""

import importlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from uniform.atomic import replacing
from uniform.codecs.base import codec_module
from uniform.codecs.catalogue import Published, published
from uniform.codecs.hub import Source, commit_of, open_source
from uniform.codecs.record import FileRecord, Record, cache_folder, read_records, write_record
from uniform.codecs.weights import each_tensor, is_weight_file, require_finite
from uniform.errors import WeightsError
from uniform.fingerprint import file_sha256


@dataclass(frozen=True)
class FileCheck:
    """Result of `verify` for one file."""

    file: str
    """Path inside the repository or folder."""
    bytes: int
    sha256: str
    problem: str | None
    """None where the file agrees with the record."""


def fetch(name: str, *, revision: str | None = None, copy_to: Path | None = None) -> Record:
    """Download a model's files into the hub's cache, and record commit and digests there.

    An interrupted download resumes; a complete file is not downloaded again.

    Args:
        name: in the catalogue.
        revision: branch, tag or commit; None is the catalogue's, else the newest of the main branch.
        copy_to: a folder for a copy of the files and the record, for a machine without the hub.
    Raises: WeightsError where the hub cannot be reached or a file is broken; ConfigError for an unknown name.
    """
    entry = published(name)
    source = Source(model=name, hub_id=entry.hub_id, revision=revision or entry.revision)
    paths = _needed_files(entry, source)
    commit = commit_of(paths[0])
    files = {}
    for path in paths:
        if is_weight_file(path):
            require_finite(each_tensor(path), f"{name}: {path}")
        files[_inside(path)] = FileRecord(bytes=path.stat().st_size, sha256=file_sha256(path))
    record = Record(hub_id=entry.hub_id, commit=commit, licence=entry.terms, files=files)
    write_record(cache_folder(), record)
    if copy_to is not None:
        for path in paths:
            with replacing(copy_to / _inside(path)) as temporary:
                shutil.copyfile(path, temporary)
        write_record(copy_to, record)
    return record


def verify(name: str, *, folder: Path | None = None) -> list[FileCheck]:
    """Read all files of a model and compare them with the record of their fetch. Uses no network.

    Args:
        name: in the catalogue.
        folder: where the files are; None is the hub's cache.
    Returns: one result per file, also for files missing from the record.
    Raises: WeightsError where a file that the model needs is missing, or nothing was fetched yet.
    """
    entry = published(name)
    record = read_records(cache_folder() if folder is None else folder).get(entry.hub_id)
    if folder is None and record is None:
        raise WeightsError(f"{name}: not fetched on this machine. Run: uniform weights fetch {name}")
    source = open_source(name, None if folder is None else str(folder), None, cache_only=True)
    paths = {_inside(path, folder): path for path in _needed_files(entry, source)}
    checks = [_check_file(file, path, record) for file, path in paths.items()]
    gone = [file for file in (record.files if record else {}) if file not in paths]
    return checks + [FileCheck(file, 0, "", "in the record, but missing: fetch again") for file in gone]


def _check_file(file: str, path: Path, record: Record | None) -> FileCheck:
    size, sha256 = path.stat().st_size, file_sha256(path)
    recorded = None if record is None else record.files.get(file)
    problem = None
    if record is not None and recorded is None:
        problem = "not in the record of the fetch: fetch again"
    elif recorded is not None and (recorded.bytes, recorded.sha256) != (size, sha256):
        problem = f"recorded with {recorded.bytes:,} bytes and sha256 {recorded.sha256[:16]}...: fetch again"
    elif is_weight_file(path):
        try:
            require_finite(each_tensor(path), str(path))
        except WeightsError as error:
            problem = str(error)
    return FileCheck(file, size, sha256, problem)


def _needed_files(entry: Published, source: Source) -> list[Path]:
    if entry.kind != "model":
        captions = entry.kind == "captioner"
        name = "uniform.captioning.files" if captions else codec_module(entry.kind, entry.name)
        module = importlib.import_module(name)
        paths: list[Path] = module.needed_files(source)
        return paths
    first = source.file(*entry.files[0])
    pinned = source.at_commit_of(first)
    return [first, *(pinned.file(*names) for names in entry.files[1:])]


def _inside(path: Path, folder: Path | None = None) -> str:
    """The path of a file inside its repository: below `folder`, or below the snapshot of the hub's cache."""
    if folder is not None:
        return path.relative_to(folder.expanduser()).as_posix()
    snapshot = next(parent for parent in path.parents if parent.parent.name == "snapshots")
    return path.relative_to(snapshot).as_posix()
