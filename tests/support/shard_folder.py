"""A valid folder of latent shards, made of random arrays, for tests of everything that reads shards.

It follows uniform/latents/format.py and uses nothing of `pipelines`, so that it can also test what `pipelines` writes.
"""

import io
import json
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset as wds

from uniform.codecs.base import CodecCard
from uniform.latents.format import CARD_NAME, INDEX_NAME, INDEX_SCHEMA, Card, ids_digest, shard_name, text_column
from uniform.spec import TOY, Spec


def codec_card(name: str, channels: int, **changes: Any) -> CodecCard:
    """A codec's card with unequal shifts and scales, so that a loader that forgets them is caught."""
    values: dict[str, Any] = {
        "name": name,
        "code_version": 1,
        "settings": {},
        "weights_sha256": None,
        "shift": tuple(0.1 * (channel + 1) for channel in range(channels)),
        "scale": tuple(1.0 + 0.25 * channel for channel in range(channels)),
    }
    return CodecCard(**{**values, **changes})


def write_shard_folder(
    folder: Path,
    *,
    clips: int = 24,
    spec: Spec = TOY,
    unit_clips: int = 10,
    captions: Sequence[str] = ("labels",),
    text_width: int = 64,
    tokens: tuple[int, int] = (2, 9),
    seed: int = 0,
    dataset: str = "random",
    splits: Mapping[str, int] | None = None,
    without_text: Sequence[int] = (),
    video_card: CodecCard | None = None,
    text_card: CodecCard | None = None,
    audio_card: CodecCard | None = None,
) -> list[str]:
    """Write shards, index and card into `folder`.

    Args:
        tokens: shortest and longest text, inclusive.
        splits: clips per split in the order of the clips; None is all "train".
        without_text: numbers of clips that have no text in any set.
    Returns: the clip ids in the order of the index.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    ids = [f"{zlib.crc32(f'{dataset}{seed}{n}'.encode()):08x}{n:08x}" for n in range(clips)]
    names = [name for name, count in (splits or {"train": clips}).items() for _ in range(count)]
    rows: list[dict[str, Any]] = []
    for unit, begin in enumerate(range(0, clips, unit_clips)):
        numbers = range(begin, min(begin + unit_clips, clips))
        latents = {
            ids[n]: {
                "video.npy": _npy(rng.standard_normal(spec.video_latent).astype(np.float16)),
                "audio.npy": _npy(rng.standard_normal(spec.audio_latent).astype(np.float16)),
                "json": json.dumps({"clip_id": ids[n]}, sort_keys=True).encode(),
            }
            for n in numbers
        }
        places = write_tar(folder / shard_name("latents", unit), latents)
        texts = {}
        for name in captions:
            members = {
                ids[n]: {"text.npy": _npy(rng.standard_normal((rng.integers(*tokens, endpoint=True), text_width)))}
                for n in numbers
                if n not in without_text
            }
            texts[name] = write_tar(folder / shard_name(text_column(name), unit), members)
        for n in numbers:
            found = [{"set": s, "tokens": 0, **texts[s][ids[n], "text.npy"]} for s in captions if n not in without_text]
            members = {name: places[ids[n], f"{name}.npy"] for name in ("video", "audio")}
            row = {"clip_id": ids[n], "dataset": dataset, "split": names[n], "unit": unit, "texts": found, **members}
            rows.append(
                {**row, "meta": places[ids[n], "json"], "start_ms": 0, "frames": spec.frames, "has_audio": True}
            )
    write_index(folder, rows)
    write_card(folder, ids, spec, captions, dataset, video_card, text_card, audio_card)
    return ids


def write_tar(path: Path, samples: Mapping[str, Mapping[str, bytes]]) -> dict[tuple[str, str], dict[str, Any]]:
    """One shard, and where each of its members lies."""
    with wds.TarWriter(str(path), mtime=0) as writer:
        for key, members in samples.items():
            writer.write({"__key__": key, **members})
    places = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, name = member.name.split(".", 1)
            content = samples[key][name]
            places[key, name] = {
                "shard": path.name,
                "offset": member.offset_data,
                "bytes": member.size,
                "crc32": zlib.crc32(content),
            }
    return places


def write_index(folder: Path, rows: list[dict[str, Any]]) -> None:
    """index.parquet of these rows."""
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), folder / INDEX_NAME)


def read_index_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of index.parquet, to be changed and written again by a test."""
    return list(pq.read_table(folder / INDEX_NAME).to_pylist())


def change_card(folder: Path, **changes: Any) -> None:
    """Replace fields of card.json."""
    values = json.loads((folder / CARD_NAME).read_bytes())
    (folder / CARD_NAME).write_text(json.dumps({**values, **changes}))


def write_card(
    folder: Path,
    ids: list[str],
    spec: Spec,
    captions: Sequence[str],
    dataset: str,
    video_card: CodecCard | None = None,
    text_card: CodecCard | None = None,
    audio_card: CodecCard | None = None,
) -> None:
    """card.json of these clips."""
    text = (text_card or codec_card("bytes", 0)).as_dict()
    card = Card(
        spec=spec.as_dict(),
        video=(video_card or codec_card("dct", spec.video_channels)).as_dict(),
        audio=(audio_card or codec_card("dct", spec.audio_channels)).as_dict(),
        texts={name: {"codec": text, "captions": f"fingerprint of {name}"} for name in captions},
        datasets=(dataset,),
        clips=len(ids),
        counts={"ok": len(ids)},
        ids_digest=ids_digest(ids),
    )
    card.write(folder)


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array.astype(np.float16), allow_pickle=False)
    return buffer.getvalue()
