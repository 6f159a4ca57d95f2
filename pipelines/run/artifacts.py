"""Artifacts of a unit: a tar of members or a Parquet table, written, read back, then renamed to its final name.

The tar is what `webdataset.TarWriter(mtime=0, user="", group="")` would write, byte for byte (a test compares them),
but importing webdataset loads torch, which a worker that only cuts clips does not need.
"""

import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.clip import Clip
from uniform.atomic import replacing, sync
from uniform.clean_text import without_surrogates
from uniform.errors import PipelineError, ShardError
from uniform.latents.format import AUDIO_MEMBER, LATENTS, TEXT_MEMBER, VIDEO_MEMBER
from uniform.latents.shards.tar import load_array, walk
from uniform.tables import write_parquet

MEMBER_MODE = 0o444

MEMBERS_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("field", pa.string()),
        ("offset", pa.int64()),  # of the data inside the tar
        ("bytes", pa.int64()),
        ("crc32", pa.uint32()),
        ("tokens", pa.int32()),  # of text.npy
        ("values", pa.int64()),  # per channel, of a latent
        ("sums", pa.list_(pa.float64())),  # per channel
        ("squares", pa.list_(pa.float64())),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Member:
    """Where the bytes of one field of one clip are, and their measures for the index and the card."""

    clip_id: str
    field: str
    offset: int
    bytes: int
    crc32: int
    tokens: int | None = None
    values: int | None = None
    sums: tuple[float, ...] | None = None
    squares: tuple[float, ...] | None = None


def write_tar(path: Path, column: str, fields: Sequence[str], clips: Iterable[Clip]) -> tuple[list[Member], str]:
    """Write the given fields of clips as a tar, in the order of the clips; the file appears whole or not at all.

    Args:
        path: final name.
        column: the store's name; members of `latents` and `text-*` are measured for the index and the card.
        fields: names of the members; each clip holds them as bytes.
        clips: taken one at a time: memory does not grow with their number.
    Returns: the place of each member, and the SHA-256 of the file.
    Raises: PipelineError where a field is not bytes, ShardError where the disk does not give back what was written.
    """
    members: list[Member] = []
    with replacing(path) as temporary:
        with temporary.open("wb") as file, tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for clip in clips:
                for field in sorted(fields):
                    content = clip.fields.get(field)
                    if not isinstance(content, bytes):
                        raise PipelineError(
                            f"clip {clip.row.clip_id}: field '{field}' goes into {path.name} and must be bytes, "
                            f"but the stage gave {type(content).__name__}"
                        )
                    members.append(_add(tar, column, clip.row.clip_id, field, content))
        sync(temporary)
        return members, _verified(temporary, path.name, members)


def _add(tar: tarfile.TarFile, column: str, clip_id: str, field: str, content: bytes) -> Member:
    info = tarfile.TarInfo(f"{clip_id}.{field}")
    info.size, info.mtime, info.mode = len(content), 0, MEMBER_MODE
    header_bytes = len(info.tobuf(tarfile.PAX_FORMAT))
    offset = tar.offset + header_bytes
    tar.addfile(info, io.BytesIO(content))
    return Member(
        clip_id=clip_id,
        field=field,
        offset=offset,
        bytes=len(content),
        crc32=zlib.crc32(content),
        **measure(column, field, content),
    )


def _verified(temporary: Path, name: str, members: Sequence[Member]) -> str:
    """Read a tar back as any reader would, compare each member, and return the file's SHA-256."""
    left = iter(members)
    for entry in walk(temporary, name):
        member = next(left, None)
        found = (entry.name, entry.offset, len(entry.content), zlib.crc32(entry.content))
        if member is None or found != (f"{member.clip_id}.{member.field}", member.offset, member.bytes, member.crc32):
            raise _misread(name)
    if next(left, None) is not None:
        raise _misread(name)
    with temporary.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _misread(name: str) -> ShardError:
    return ShardError(
        f"{name}: what was read back differs from what was written. The disk or its memory is failing; "
        f"nothing was committed."
    )


def measure(column: str, field: str, content: bytes) -> dict[str, Any]:
    """Measures of a member for index and card: the tokens of a text, the channel sums of a latent."""
    if column == LATENTS and field in (VIDEO_MEMBER, AUDIO_MEMBER):
        latent = load_array(content, field)
        flat = latent.reshape(latent.shape[0], -1).astype(np.float64)
        return {
            "values": flat.shape[1],
            "sums": tuple(flat.sum(axis=1).tolist()),
            "squares": tuple((flat * flat).sum(axis=1).tolist()),
        }
    if field == TEXT_MEMBER:
        return {"tokens": int(load_array(content, field).shape[0])}
    return {}


def write_members(path: Path, members: Iterable[Member]) -> None:
    """Write the places of the members of a tar."""
    write_parquet(path, pa.Table.from_pylist([vars(member) for member in members], schema=MEMBERS_SCHEMA))


def write_table(path: Path, fields: Sequence[str], clips: Iterable[Clip]) -> str:
    """Write the given fields of clips as a Parquet table; it appears whole or not at all. Returns its SHA-256.

    Lone surrogates in texts, which no file can hold, become U+FFFD.

    Raises: PipelineError where the values of a field have no common plain type; it names the clip, if one is at fault.
    """
    rows: list[Mapping[str, Any]] = []
    for clip in clips:
        missing = [field for field in fields if field not in clip.fields]
        if missing:
            raise PipelineError(f"clip {clip.row.clip_id}: the stage kept it but did not set '{missing[0]}'")
        rows.append({"clip_id": clip.row.clip_id, **{field: _storable(clip[field]) for field in fields}})
    names = ["clip_id", *fields]
    try:
        table = pa.table({name: pa.array([row[name] for row in rows]) for name in names})
    except (ValueError, TypeError, OverflowError, pa.ArrowException) as error:
        found = f"{path.name}{_clip_at_fault(rows, fields)}: the stage's values do not fit one column"
        raise PipelineError(f"{found} ({type(error).__name__}: {error})") from error
    with replacing(path) as temporary:
        pq.write_table(table, temporary)
        sync(temporary)
        if not _same(pq.read_table(temporary, partitioning=None), table):
            raise _misread(path.name)
        with temporary.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return value


def _clip_at_fault(rows: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> str:
    for row in rows:
        for field in fields:
            try:
                pa.array([row[field]])
            except (ValueError, TypeError, OverflowError, pa.ArrowException):
                return f", clip {row['clip_id']}, field '{field}'"
    return ""


def _same(found: pa.Table, table: pa.Table) -> bool:
    """Whether two tables are equal, NaN and all.

    A stage may store NaN for what it could not measure, and Arrow does not compare NaN as equal. Python's repr does,
    and distinguishes other numbers to the last bit.
    """
    if found.equals(table):
        return True
    return bool(found.schema.equals(table.schema)) and repr(found.to_pylist()) == repr(table.to_pylist())
