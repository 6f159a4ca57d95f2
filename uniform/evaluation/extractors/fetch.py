"""Fetch the published weights of the extractors, record their digests, and verify them later.

Files come from the Hugging Face hub, or over https from where their publisher keeps them. Of the second kind, a file
gets its name only when it is whole; a download that stopped goes on where it was.
"""

import http.client
import json
import logging
import shutil
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from http import HTTPStatus
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from uniform.atomic import replacing, write_bytes
from uniform.errors import UniformError, WeightsError
from uniform.evaluation.extractors.catalogue import (
    PublishedFile,
    PublishedWeights,
    extractors,
    find_file,
    find_weights,
    module_name,
)
from uniform.evaluation.extractors.contract import WeightsFile
from uniform.evaluation.extractors.fetch_record import RECORD_NAME, read_record
from uniform.evaluation.extractors.tensor_files import file_record

PART_SUFFIX = ".part"
TIMEOUT_S = 60.0
"""Longest wait for the next bytes."""
CHUNK_BYTES = 2**20
SIZE_MARGIN = 1.25
"""A file may be so much larger than the catalogue says; what is more is not the published file."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """What `verify` found of one file."""

    file: str
    bytes: int
    sha256: str
    problem: str | None
    """None where the file is as it was recorded, and its network takes it."""


def fetch(weights: PublishedWeights, folder: Path) -> tuple[WeightsFile, ...]:
    """Bring the files of `weights` into the sub-folder of their name and record their digests there.

    A file that is there, or in `folder` itself, stays.

    Raises: WeightsError where a file cannot be had, or is not the published one.
    """
    place = folder / weights.name
    place.mkdir(parents=True, exist_ok=True)
    records = []
    for file in weights.files:
        path = find_file(weights, file, folder)
        if path is None:
            path = place / file.name
            try:
                _bring(file, path, weights)
            except WeightsError as error:
                if not file.optional:
                    raise
                _log.warning("%s: left out, since it is needed for texts only: %s", file.name, error)
                continue
        record = file_record(path, file)
        if not record.known and (file.sha256 or file.sha256_head or file.md5):
            raise WeightsError(
                f"{path}: sha256 {record.sha256} is not the published file's. Delete it and fetch again. "
                f"By hand: {weights.how}"
            )
        records.append(record)
    entries = {record.name: asdict(record) for record in records}
    write_bytes(place / RECORD_NAME, f"{json.dumps(entries, indent=2, sort_keys=True)}\n".encode())
    return tuple(records)


def _bring(file: PublishedFile, path: Path, weights: PublishedWeights) -> None:
    if file.hub_id is not None:
        _from_hub(file, path, weights)
    elif file.url is not None:
        _download(file, path, weights)
    else:
        raise WeightsError(f"{weights.name}: {file.name} has no address to fetch from. By hand: {weights.how}")


def verify(weights: PublishedWeights, folder: Path) -> list[Verdict]:
    """Compare the files of `weights` with the record of their fetch, and load each into its network.

    Raises: WeightsError where a file is missing.
    """
    paths, recorded = find_weights(weights, folder), read_record(folder / weights.name)
    present = [file for file in weights.files if find_file(weights, file, folder) is not None]
    unloadable = _why_it_does_not_load(weights, folder)
    verdicts = []
    for file, path in zip(present, paths, strict=True):
        found = file_record(path, file)
        before = recorded.get(file.name, {}).get("sha256")
        problem = unloadable
        if before is not None and before != found.sha256:
            problem = f"recorded with sha256 {before[:16]}...: fetch again"
        verdicts.append(Verdict(file.name, found.bytes, found.sha256, problem))
    return verdicts


def _why_it_does_not_load(weights: PublishedWeights, folder: Path) -> str | None:
    entry = next((entry for entry in extractors().values() if entry.weights == weights.name), None)
    if entry is None:
        return None
    try:
        import_module(module_name(entry)).load(entry, folder, torch.device("cpu"))
    except UniformError as error:
        return str(error)
    return None


def _from_hub(file: PublishedFile, path: Path, weights: PublishedWeights) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    assert file.hub_id is not None, "only files of the hub come here"
    try:
        cached = hf_hub_download(file.hub_id, file.hub_path or file.name, repo_type=file.hub_type)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"{weights.name}: {file.name} could not be had from {file.hub_id}: {first}. By hand: {weights.how}"
        ) from error
    with replacing(path) as temporary:
        shutil.copyfile(cached, temporary)


def _download(file: PublishedFile, path: Path, weights: PublishedWeights) -> None:
    """Download `file.url` to `path`, from where an earlier try stopped. Raises WeightsError."""
    assert file.url is not None, "only files with an address come here"
    part = path.with_name(path.name + PART_SUFFIX)
    try:
        _continue_part(file.url, part, int(file.bytes * SIZE_MARGIN) + CHUNK_BYTES)
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)  # it is whole, or longer than the file: start anew
        raise _not_had(file, weights, f"HTTP {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise _not_had(file, weights, str(error) or type(error).__name__) from error
    part.replace(path)


def _not_had(file: PublishedFile, weights: PublishedWeights, why: str) -> WeightsError:
    return WeightsError(
        f"{weights.name}: {file.name} could not be had from {file.url}: {why}. "
        f"Run it again: it goes on where it stopped. By hand: {weights.how}"
    )


def _continue_part(url: str, part: Path, limit: int) -> None:
    """Append to `part` what it lacks. Raises OSError or ValueError for an answer that is not that file."""
    there = part.stat().st_size if part.is_file() else 0
    with _open(url, there) as answer, part.open("ab") as target:
        if there and answer.status != HTTPStatus.PARTIAL_CONTENT:
            target.truncate(0)  # the server sends the whole file
            there = 0
        promised = int(answer.headers.get("Content-Length") or -1)
        received = 0
        while chunk := answer.read(CHUNK_BYTES):
            received += len(chunk)
            if there + received > limit:
                raise ValueError(f"more than {limit:,} bytes, which is not that file")
            target.write(chunk)
        if promised >= 0 and received != promised:
            raise OSError(f"it stopped after {there + received:,} bytes")


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to https alone."""

    def redirect_request(self, *arguments: Any, **settings: Any) -> urllib.request.Request | None:
        request = super().redirect_request(*arguments, **settings)
        if request is not None and not request.full_url.startswith("https://"):
            raise urllib.error.URLError(f"redirected to {request.full_url[:200]}, which is no https address")
        return request


def _open(url: str, start: int) -> Any:
    """The answer to a request for the bytes of `url` from `start` on. Raises OSError."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})  # noqa: S310
    if request.type != "https":
        raise urllib.error.URLError(f"{url[:200]} is no https address")
    return urllib.request.build_opener(_HttpsOnly).open(request, timeout=TIMEOUT_S)
