"""The index of a folder of latent shards as flat arrays, checked before the first clip is read.

`open_index` reads index.parquet and card.json, keeps the clips of the wanted split and makes sure that every byte range
that a training run may ask for lies inside a shard that is there. Nothing of the shards themselves is read here;
`uniform/latents/shards/members.py` does that.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from uniform.errors import ShardError
from uniform.latents.format import CARD_NAME, INDEX_NAME, INDEX_SCHEMA, Card, read_card, spec_of
from uniform.latents.shards.remote import RemoteFolder
from uniform.spec import Spec
from uniform.tables import LOCAL, local_name

Longs = npt.NDArray[np.int64]
READ_ROWS = 4096
"""Rows of the index that are decoded at once."""
MAX_FIXED_BYTES, MAX_ROW_BYTES = 16 << 20, 16 << 10
"""What the decoded index may take: so much, and so much more per row; a real row takes some 400 bytes and 60 a caption
set."""


@dataclass(frozen=True)
class Places:
    """Where one member of each clip lies: four arrays of (clips,)."""

    shard: npt.NDArray[np.int32]
    """Number in `Index.shards`; -1 where the clip has no such member."""
    offset: Longs
    """First byte of the member's data in the tar."""
    length: Longs
    """Bytes of the member."""
    crc32: npt.NDArray[np.uint32]

    def take(self, rows: npt.NDArray[Any]) -> "Places":
        """The places of some clips."""
        return Places(self.shard[rows], self.offset[rows], self.length[rows], self.crc32[rows])

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """(clips,), True where the clip has this member."""
        return self.shard >= 0


@dataclass(frozen=True, kw_only=True)
class Index:
    """The index of a folder of shards as arrays, for a loader; N clips."""

    folder: Path | RemoteFolder
    """As the user named it: a remote folder prints as its URL."""
    card: Card
    spec: Spec
    shards: tuple[str, ...]
    """File names in the folder."""
    clip_ids: npt.NDArray[np.str_]
    datasets: npt.NDArray[np.str_]
    video: Places
    audio: Places
    texts: dict[str, Places]
    """By caption set."""
    stdev: dict[str, Places]
    """Of "video" and "audio": the posterior's std; empty where it was not requested."""

    def __len__(self) -> int:
        return len(self.clip_ids)

    def content_digest(self, captions: Sequence[str]) -> str:
        """Digest of the clips in their order and of every byte read with these caption sets: 16 hex digits."""
        found = hashlib.sha256("\n".join(self.clip_ids.tolist()).encode())
        for places in (self.video, self.audio, *self.stdev.values(), *(self.texts[name] for name in captions)):
            found.update(np.where(places.present, places.crc32.astype(np.int64), -1).tobytes())
        return found.hexdigest()[:16]

    def has_text(self, captions: Sequence[str]) -> npt.NDArray[np.bool_]:
        """(len(captions), N): True where the clip has a text in that set."""
        return np.stack([self.texts[name].present for name in captions])


def open_index(folder: Path | RemoteFolder, split: str | None = None, *, stdev: bool = False) -> Index:
    """Read and check the index of a folder of shards.

    Args:
        folder: holds index.parquet, card.json and the shards.
        split: keep only the clips of this split; None keeps all.
        stdev: read the optional column of posterior stds too.
    Raises: ShardError where the index is missing, empty, of another shape or of another number of clips than the card
        says, or names bytes that are not there.
    """
    local = folder.local if isinstance(folder, RemoteFolder) else folder
    card = read_card(local)
    path = local / INDEX_NAME
    table = _read_table(path, card.clips)
    if split is not None:
        splits = sorted(set(table["split"].to_pylist()))
        table = table.filter(pa.compute.equal(table["split"], split))
        if len(table) == 0 and splits:
            raise ShardError(f"{path}: no clip of split '{split}'; the index has {', '.join(splits)}")
    if len(table) == 0:
        raise ShardError(f"{path}: lists no clip. Run `uniform pipeline status` to see where they went.")
    names: list[str] = []
    index = Index(
        folder=folder,
        card=card,
        spec=spec_of(card),
        clip_ids=_strings(table["clip_id"]),
        datasets=_strings(table["dataset"]),
        video=_places(table["video"], names),
        audio=_places(table["audio"], names),
        texts=_text_places(table["texts"], names),
        stdev={name: _places(table[f"stdev_{name}"], names) for name in (("video", "audio") if stdev else ())},
        shards=tuple(names),
    )
    _check_members(index, path)
    _check_bytes(index, path)
    return index


def _read_table(path: Path, clips: int) -> pa.Table:
    """The columns of the format, read only where the file has as many rows as the card says and cells of sane size."""
    if not path.exists():
        raise ShardError(f"{path}: not found. A finished folder of shards has one; was the pipeline run to its end?")
    try:
        with pq.ParquetFile(local_name(path), filesystem=LOCAL) as file:
            listed = file.metadata.num_rows
            _require_columns(path, file.schema_arrow)
            if listed not in (0, clips):  # none at all has an error of its own
                raise ShardError(
                    f"{path}: lists {listed:,} clips, but {CARD_NAME} says {clips:,}: the two are of different states "
                    f"of the run, as a kill or a copy half done leaves them. Run `uniform pipeline run` again, or copy "
                    f"both again."
                )
            batches = []
            budget = MAX_FIXED_BYTES + listed * MAX_ROW_BYTES
            for batch in file.iter_batches(READ_ROWS, columns=INDEX_SCHEMA.names):
                batches.append(batch)
                budget -= batch.nbytes
                if budget < 0:
                    raise ShardError(
                        f"{path}: its {listed:,} rows take more than {MAX_ROW_BYTES:,} bytes each; the index cannot be "
                        f"trusted. Run `uniform pipeline run` again, or copy the folder again from where it was made."
                    )
            table = pa.Table.from_batches(batches, file.schema_arrow) if batches else file.read()
        return table.select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ShardError(
            f"{path}: not a Parquet file with the columns of the format ({error}). Run `uniform pipeline run` again."
        ) from error


def _require_columns(path: Path, schema: pa.Schema) -> None:
    missing = [name for name in INDEX_SCHEMA.names if name not in schema.names]
    if missing:
        raise ShardError(f"{path}: columns {', '.join(missing)} are missing. Run `uniform pipeline run` again.")


def _strings(column: pa.ChunkedArray) -> npt.NDArray[np.str_]:
    return np.array([value or "" for value in column.to_pylist()], dtype=np.str_)


def _places(column: pa.ChunkedArray, names: list[str]) -> Places:
    return _as_places(column.combine_chunks(), names)


def _as_places(structs: pa.StructArray, names: list[str]) -> Places:
    """Arrow structs to flat arrays; shard names that are new are added to `names`."""
    numbers = {name: number for number, name in enumerate(names)}
    shard = np.full(len(structs), -1, dtype=np.int32)
    for row, name in enumerate(pa.compute.struct_field(structs, "shard").to_pylist()):
        if name is not None:
            if name not in numbers:
                numbers[name] = len(names)
                names.append(name)
            shard[row] = numbers[name]

    def numbers_of(field: str, dtype: Any) -> Any:
        values = pa.compute.fill_null(pa.compute.struct_field(structs, field), 0)
        return values.to_numpy(zero_copy_only=False).astype(dtype)

    return Places(shard, numbers_of("offset", np.int64), numbers_of("bytes", np.int64), numbers_of("crc32", np.uint32))


def _text_places(column: pa.ChunkedArray, names: list[str]) -> dict[str, Places]:
    lists = column.combine_chunks()
    clips = len(lists)
    flat = lists.flatten()
    rows = np.asarray(pa.compute.list_parent_indices(lists).to_numpy(zero_copy_only=False))
    sets = np.array(pa.compute.struct_field(flat, "set").to_pylist(), dtype=object)
    every = _as_places(flat, names)
    texts: dict[str, Places] = {}
    for name in sorted(set(sets.tolist())):
        mine = np.flatnonzero(sets == name)
        empty = Places(
            np.full(clips, -1, np.int32),
            np.zeros(clips, np.int64),
            np.zeros(clips, np.int64),
            np.zeros(clips, np.uint32),
        )
        part = every.take(mine)
        for target, source in ((empty.shard, part.shard), (empty.offset, part.offset), (empty.length, part.length)):
            target[rows[mine]] = source
        empty.crc32[rows[mine]] = part.crc32
        texts[name] = empty
    return texts


def _check_members(index: Index, path: Path) -> None:
    for what, places in (("video", index.video), ("audio", index.audio)):
        absent = np.flatnonzero(~places.present)
        if len(absent):
            raise ShardError(f"{path}: clip {index.clip_ids[absent[0]]} has no {what} member ({len(absent)} clips).")
    for what, places in index.stdev.items():
        absent = np.flatnonzero(~places.present)
        if len(absent):
            raise ShardError(
                f"{path}: clip {index.clip_ids[absent[0]]} has no deviation of its {what} ({len(absent)} clips of "
                f'{len(index)}), so the posterior cannot be sampled. Set posterior = "mean", or add the stage '
                f"encode_stdev to the recipe and run the pipeline again: latents that are there stay."
            )
    ids, counts = np.unique(index.clip_ids, return_counts=True)
    if len(ids) != len(index):
        twice = ids[counts > 1]
        raise ShardError(f"{path}: clip {twice[0]} is listed more than once ({len(twice)} such clips).")


def _check_bytes(index: Index, path: Path) -> None:
    """Raise ShardError unless every shard exists and every range ends inside its shard."""
    for name in index.shards:
        if Path(name).name != name:
            raise ShardError(f"{path}: shard '{name}' is not a file name of this folder; the index cannot be trusted.")
    if isinstance(index.folder, RemoteFolder):
        index.folder.fetch_properties(index.shards)
        sizes = np.array([index.folder.size(name) for name in index.shards], dtype=np.int64)
    else:
        sizes = np.array([_size(index.folder, name) for name in index.shards], dtype=np.int64)
    members = {"video": index.video, "audio": index.audio} | {f"text '{k}'": v for k, v in index.texts.items()}
    members |= {f"{name} std": places for name, places in index.stdev.items()}
    for what, places in members.items():
        rows = np.flatnonzero(places.present)
        ends = places.offset[rows] + places.length[rows]
        beyond = (places.offset[rows] < 0) | (places.length[rows] < 1) | (ends > sizes[places.shard[rows]])
        if beyond.any():
            row = rows[np.flatnonzero(beyond)[0]]
            name = index.shards[places.shard[row]]
            raise ShardError(
                f"{path}: the {what} of clip {index.clip_ids[row]} should lie at bytes {places.offset[row]} to "
                f"{places.offset[row] + places.length[row]} of {name}, which has {sizes[places.shard[row]]} bytes "
                f"({int(beyond.sum())} such clips). The shard was cut, or the index is of other shards. "
                f"Copy the folder again, or run `uniform shards lint {index.folder}`."
            )


def _size(folder: Path, name: str) -> int:
    try:
        return (folder / name).stat().st_size
    except OSError as error:
        raise ShardError(
            f"{folder / name}: named by the index, but not there ({error.strerror}). "
            f"Copy the shard again, or run the pipeline again: it makes only what is missing."
        ) from error
