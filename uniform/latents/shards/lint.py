"""Checks a folder of shards: every byte that the index names is read and compared.

Checked: the card is of this format and its spec makes sense; the index has the contract's columns and names each clip
once; every tar is whole and holds plain files only; each member lies where the index says, with the sum that it says;
arrays have the spec's shape, are float16 and finite; card and index agree.
"""

import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from uniform.errors import ShardError, SpecMismatchError
from uniform.latents.format import (
    INDEX_NAME,
    INDEX_SCHEMA,
    MEMBER_COLUMNS,
    META_MEMBER,
    STDEV_COLUMNS,
    TEXT_MEMBER,
    Card,
    ids_digest,
    latent_shapes,
    read_card,
    spec_of,
)
from uniform.latents.shards.tar import Entry, load_array, walk
from uniform.spec import Spec, long_spec

_MEMBER = re.compile(r"[0-9A-Za-z_]+\.[a-z_][a-z0-9_.]*")
_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*-\d{6}\.tar")


@dataclass(frozen=True)
class Problem:
    """Something wrong in a folder of shards."""

    where: str
    text: str
    other_spec: bool = False
    """The bytes are sound but belong to another spec or codec."""

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """A member that the index names."""

    offset: int
    bytes: int
    crc32: int
    tokens: int | None


def require_sound(folder: Path, most: int = 20) -> int:
    """Check a folder of shards.

    Returns: the number of clips.
    Raises: ShardError, or SpecMismatchError where shards belong to another spec or codec, with the first problems.
    """
    problems = []
    for problem in problems_of(folder):
        problems.append(problem)
        if len(problems) == most:
            break
    if problems:
        more = " (there may be more)" if len(problems) == most else ""
        lines = "\n".join(f"  {problem}" for problem in problems)
        kind = SpecMismatchError if all(problem.other_spec for problem in problems) else ShardError
        raise kind(
            f"{folder}: {len(problems)} problems{more}:\n{lines}\n"
            f"Restore the files from where they came, or make the units again: uniform pipeline run"
        )
    return read_card(folder).clips


def problems_of(folder: Path) -> Iterator[Problem]:
    """Everything that is wrong with a folder of shards; raises ShardError only where there is nothing to check."""
    card = read_card(folder)
    spec = spec_of(card)
    index = read_index(folder)
    yield from _card_problems(card, index, long_spec(spec, card.windows).frames)
    for shard, members in sorted(_members_of(index).items()):
        if not _SHARD.fullmatch(shard):
            yield Problem(INDEX_NAME, f"names the shard '{shard}', which is not a plain file name; it may lead outside")
        elif not (folder / shard).is_file():
            yield Problem(shard, f"is not there, but {INDEX_NAME} names {len(members)} of its members")
        else:
            yield from _shard_problems(folder / shard, members, spec, card)


def read_index(folder: Path) -> pa.Table:
    """index.parquet. Raises ShardError where it is missing, damaged or has other columns than the contract."""
    path = folder / INDEX_NAME
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise ShardError(
            f"{path}: not found. A finished folder of shards has one; run the pipeline to its end."
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise ShardError(f"{path}: cannot be read ({error}). Run the pipeline again: it writes a new one.") from error
    if not table.schema.equals(INDEX_SCHEMA):
        raise ShardError(
            f"{path}: its columns are {', '.join(table.schema.names)}; wanted {', '.join(INDEX_SCHEMA.names)} with the "
            f"contract's types (docs/shard_format.md). It was written by another version."
        )
    return table


def _card_problems(card: Card, index: pa.Table, frames: int) -> Iterator[Problem]:
    ids = index["clip_id"].to_pylist()
    if len(set(ids)) != len(ids):
        yield Problem(INDEX_NAME, f"names {len(ids) - len(set(ids))} clips more than once")
    if card.clips != len(ids):
        yield Problem("card.json", f"says {card.clips} clips, the index has {len(ids)}")
    if card.counts.get("ok") != len(ids):
        yield Problem("card.json", f"counts {card.counts.get('ok')} clips as ok, the index has {len(ids)}")
    if card.ids_digest != ids_digest(ids):
        yield Problem("card.json", f"its digest of the clip ids is {card.ids_digest}, the index's is {ids_digest(ids)}")
    if list(card.datasets) != sorted(set(index["dataset"].to_pylist())):
        yield Problem("card.json", f"names the datasets {', '.join(card.datasets)}; the index has others")
    found = {text["set"] for texts in index["texts"].to_pylist() for text in texts or ()}
    if found != set(card.texts):
        yield Problem("card.json", f"names the caption sets {sorted(card.texts)}; the index has {sorted(found)}")
    others = set(index["frames"].to_pylist()) - {frames}
    if others:
        yield Problem(INDEX_NAME, f"names clips of {sorted(others)} frames; the card's spec and windows make {frames}")
    for name in ("video", "audio"):
        if "fingerprint" not in getattr(card, name):
            yield Problem("card.json", f"its {name} codec has no fingerprint")


def _members_of(index: pa.Table) -> dict[str, dict[str, _Wanted]]:
    """Shard -> member -> its entry in the index."""
    found: dict[str, dict[str, _Wanted]] = {}

    def add(clip_id: str, field: str, place: Mapping[str, Any] | None) -> None:
        if place is not None:
            found.setdefault(place["shard"], {})[f"{clip_id}.{field}"] = _Wanted(
                offset=place["offset"], bytes=place["bytes"], crc32=place["crc32"], tokens=place.get("tokens")
            )

    for row in index.to_pylist():
        for column, field in {**MEMBER_COLUMNS, **STDEV_COLUMNS}.items():
            add(row["clip_id"], field, row[column])
        for text in row["texts"] or ():
            add(row["clip_id"], TEXT_MEMBER, text)
    return found


def _shard_problems(path: Path, members: Mapping[str, _Wanted], spec: Spec, card: Card) -> Iterator[Problem]:
    seen: set[str] = set()
    try:
        for entry in walk(path):
            where = f"{path.name}: {entry.name}"
            if not _MEMBER.fullmatch(entry.name):
                yield Problem(where, "is no <clip id>.<field>")
            if entry.name in seen:
                yield Problem(where, "is in the shard twice")
            seen.add(entry.name)
            if entry.name in members:
                yield from _member_problems(where, entry, members[entry.name], spec, card)
    except ShardError as error:
        yield Problem(path.name, str(error).removeprefix(f"{path.name}: "))
        return
    for name in sorted(set(members) - seen):
        yield Problem(path.name, f"does not hold '{name}', which the index names")


def _member_problems(where: str, entry: Entry, wanted: _Wanted, spec: Spec, card: Card) -> Iterator[Problem]:
    if (entry.offset, len(entry.content)) != (wanted.offset, wanted.bytes):
        yield Problem(
            where,
            f"lies at {entry.offset} and has {len(entry.content)} bytes; "
            f"the index says {wanted.offset} and {wanted.bytes}",
        )
    if zlib.crc32(entry.content) != wanted.crc32:
        yield Problem(where, f"has the sum {zlib.crc32(entry.content):08x}; the index says {wanted.crc32:08x}")
    field = entry.name.split(".", 1)[1]
    if field == META_MEMBER:
        yield from _meta_problems(where, entry, card)
        return
    try:
        array = load_array(entry.content, "content")
    except ShardError as error:
        yield Problem(where, str(error))
        return
    if array.dtype != np.float16 or not array.flags.c_contiguous:
        yield Problem(where, f"is {array.dtype}, wanted float16 in C order")
    elif not np.isfinite(array).all():
        yield Problem(where, f"holds {int((~np.isfinite(array)).sum())} values that are NaN or infinite")
    elif field in STDEV_COLUMNS.values() and (array < 0).any():
        yield Problem(where, f"holds {int((array < 0).sum())} standard deviations below 0")
    yield from _shape_problems(where, field, array.shape, wanted, latent_shapes(spec, card.windows), spec.name)


def _shape_problems(
    where: str,
    field: str,
    found: tuple[int, ...],
    wanted: _Wanted,
    shapes: Mapping[str, tuple[int, ...]],
    spec_name: str,
) -> Iterator[Problem]:
    if field in shapes and found != shapes[field]:
        yield Problem(where, f"has shape {found}; the card's spec '{spec_name}' wants {shapes[field]}", other_spec=True)
    if field == TEXT_MEMBER and (len(found) != 2 or found[0] < 1 or found[0] != wanted.tokens):
        yield Problem(where, f"has shape {found}; wanted ({wanted.tokens}, width)")


def _meta_problems(where: str, entry: Entry, card: Card) -> Iterator[Problem]:
    try:
        metadata = json.load(io.BytesIO(entry.content))
    except ValueError as error:
        yield Problem(where, f"is not JSON ({error})")
        return
    if not isinstance(metadata, dict):
        yield Problem(where, "is not a JSON table")
        return
    if metadata.get("windows", 1) != card.windows:
        text = f"has {metadata.get('windows', 1)} windows; the card says {card.windows}"
        yield Problem(where, text, other_spec=True)
    codecs = metadata.get("codecs")
    for kind, fingerprint in (codecs if isinstance(codecs, dict) else {}).items():
        known = getattr(card, kind, None)
        if isinstance(known, Mapping) and fingerprint != known.get("fingerprint"):
            text = f"was made by the {kind} codec {fingerprint}; the card says {known.get('fingerprint')}"
            yield Problem(where, text, other_spec=True)


@dataclass(frozen=True, kw_only=True)
class Info:
    """Counts and sizes of a folder of shards."""

    card: Card
    splits: Mapping[str, int]
    shards: Mapping[str, int]
    """Column -> number of shards that the index names."""
    bytes: Mapping[str, int]
    """Column -> bytes of the members that the index names."""


def info(folder: Path) -> Info:
    """Read card and index of a folder of shards. Raises ShardError."""
    card, index = read_card(folder), read_index(folder)
    sizes: dict[str, int] = {}
    shards: dict[str, set[str]] = {}
    for shard, members in _members_of(index).items():
        column = shard.rsplit("-", 1)[0]
        shards.setdefault(column, set()).add(shard)
        sizes[column] = sizes.get(column, 0) + sum(member.bytes for member in members.values())
    splits = {str(pair["values"]): int(pair["counts"]) for pair in index["split"].value_counts().to_pylist()}
    return Info(
        card=card,
        splits=dict(sorted(splits.items())),
        shards={column: len(names) for column, names in sorted(shards.items())},
        bytes=dict(sorted(sizes.items())),
    )
