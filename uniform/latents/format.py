"""The contract between preparation and training: names, columns and the card of a folder of latent shards.

    <folder>/latents-000017.tar         <id>.video.npy  <id>.audio.npy  <id>.json
    <folder>/text-<set>-000017.tar      <id>.text.npy
    <folder>/stdev-000017.tar           <id>.video_std.npy  <id>.audio_std.npy     (optional column)
    <folder>/index.parquet              one row per clip: where each member's bytes are
    <folder>/card.json                  spec, codecs, statistics, counts, digest of the id list

Shards are plain, uncompressed tar files that any WebDataset reader opens. Arrays are .npy, float16, C order: the
posterior mean before shift and scale. A shard that no index row names does not exist. See docs/shard_format.md.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from uniform.atomic import write_bytes
from uniform.errors import ShardError, SpecMismatchError
from uniform.fingerprint import canonical_json, digest
from uniform.spec import Spec, long_spec

FORMAT_VERSION = 1

LATENTS = "latents"
"""Column of the required members."""
STDEV = "stdev"
"""Optional column: the posterior's standard deviation."""

VIDEO_MEMBER = "video.npy"
"""float16 (channels, latent frames, rows, columns); of a clip with windows, the latent frames of all its seconds."""
AUDIO_MEMBER = "audio.npy"
"""float16 (channels, time, frequency); of a clip with windows, (channels, windows, time, frequency)."""
VIDEO_STD_MEMBER = "video_std.npy"
"""Standard deviation of the posterior, shaped as the video."""
AUDIO_STD_MEMBER = "audio_std.npy"
META_MEMBER = "json"
"""Metadata of the clip: row, notes, codec fingerprints, round-trip scores. Sorted keys."""
TEXT_MEMBER = "text.npy"
"""float16 (tokens, width), at the caption's real length."""

MEMBER_COLUMNS = {"video": VIDEO_MEMBER, "audio": AUDIO_MEMBER, "meta": META_MEMBER}
"""Column of the index -> member of a latents shard."""
STDEV_COLUMNS = {"stdev_video": VIDEO_STD_MEMBER, "stdev_audio": AUDIO_STD_MEMBER}
"""Column of the index -> member of a stdev shard."""

INDEX_NAME = "index.parquet"
CARD_NAME = "card.json"

PLACE = pa.struct([("shard", pa.string()), ("offset", pa.int64()), ("bytes", pa.int64()), ("crc32", pa.uint32())])
"""Where a member's bytes lie: file name in the folder, offset of its data in the tar, length, zlib.crc32."""

TEXT_PLACE = pa.struct(
    [
        ("set", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("bytes", pa.int64()),
        ("crc32", pa.uint32()),
        ("tokens", pa.int32()),
    ]
)

INDEX_SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string()),
        pa.field("dataset", pa.string()),
        pa.field("split", pa.string()),
        pa.field("unit", pa.int32()),
        pa.field("video", PLACE),
        pa.field("audio", PLACE),
        pa.field("meta", PLACE),
        pa.field("stdev_video", PLACE),  # null without the column
        pa.field("stdev_audio", PLACE),
        pa.field("start_ms", pa.int64()),
        pa.field("frames", pa.int32()),  # video frames behind the latent
        pa.field("has_audio", pa.bool_()),
        pa.field("texts", pa.list_(TEXT_PLACE)),  # one per caption set, in the order of the sets' names
    ]
)


def shard_name(column: str, unit: int) -> str:
    """File name of a unit's shard: `latents-000017.tar`."""
    return f"{column}-{unit:06d}.tar"


def text_column(caption_set: str) -> str:
    """Column of a caption set's text features: `text-<set>`."""
    return f"text-{caption_set}"


@dataclass(frozen=True, kw_only=True)
class Card:
    """The card of a folder of shards, for people and for the checks before step 0.

    `video` and `audio` are `CodecCard.as_dict()`; `texts` maps a caption set to its codec's card under "codec" and to
    the caption fingerprint under "captions". Statistics are per channel, over the raw latents of all clips.
    """

    spec: Mapping[str, Any]
    video: Mapping[str, Any]
    audio: Mapping[str, Any]
    texts: Mapping[str, Any] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()
    clips: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    """Clips by ledger code, "ok" among them."""
    statistics: Mapping[str, Any] = field(default_factory=dict)
    """{"video": {"mean": [...], "std": [...]}, "audio": {...}}"""
    ids_digest: str = ""
    """`ids_digest` of the obtained clip ids: equal digests are equal sets."""
    licences: tuple[str, ...] = ()
    windows: int = 1
    """Clips of the spec that each latent holds, one beginning at each whole second; 1 is not written."""
    format_version: int = FORMAT_VERSION

    def write(self, folder: Path) -> None:
        """Write card.json atomically."""
        text = json.dumps(self.as_dict(), indent=2, sort_keys=True, ensure_ascii=False)
        write_bytes(folder / CARD_NAME, f"{text}\n".encode())

    def as_dict(self) -> dict[str, Any]:
        """Every field, JSON-ready."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return values if self.windows > 1 else {name: value for name, value in values.items() if name != "windows"}


def read_card(folder: Path) -> Card:
    """The card of a folder of shards. Raises ShardError where it is missing, damaged or of another format version."""
    path = folder / CARD_NAME
    if not path.exists():
        raise ShardError(f"{path}: not found. A finished folder of shards has one; was the pipeline run to its end?")
    try:
        values = json.loads(path.read_bytes())
        version = values["format_version"]
        if version != FORMAT_VERSION:
            raise ShardError(
                f"{path}: format version {version}, this toolkit reads {FORMAT_VERSION}. "
                f"Make the shards again, or use the toolkit's version that wrote them."
            )
        values["datasets"], values["licences"] = tuple(values["datasets"]), tuple(values["licences"])
        if not isinstance(values.get("windows", 1), int) or values.get("windows", 1) < 1:
            raise ValueError(f"windows is {values['windows']!r}")
        return Card(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{path}: not a card ({error!r}). Restore it, or run `uniform pipeline run` again.") from error


def latent_shapes(spec: Spec, windows: int = 1) -> dict[str, tuple[int, ...]]:
    """Shape of each array of a clip, by member: of video and audio latent, and of their stds."""
    video: tuple[int, ...] = long_spec(spec, windows).video_latent
    audio: tuple[int, ...] = spec.audio_latent
    if windows > 1:
        audio = (audio[0], windows, *audio[1:])
    return {VIDEO_MEMBER: video, AUDIO_MEMBER: audio, VIDEO_STD_MEMBER: video, AUDIO_STD_MEMBER: audio}


def ids_digest(clip_ids: Iterable[str]) -> str:
    """Digest of a set of clip ids, whatever their order."""
    return digest(sorted(clip_ids))


def identity(card: Card) -> dict[str, str]:
    """The values of a card that must agree wherever its latents are used: spec and codec fingerprints."""
    values = {f"spec.{name}": str(value) for name, value in card.spec.items() if name != "name"}
    for kind, codec in (("video", card.video), ("audio", card.audio)):
        values[f"{kind} codec"] = f"{codec['name']} {codec['fingerprint']}"
    return values


def codec_identity(card: Mapping[str, Any]) -> dict[str, str]:
    """The values of one codec's card (`CodecCard.as_dict`) that must agree, alike from memory or from a file."""
    names = ("name", "code_version", "settings", "weights_sha256", "fingerprint")
    return {name: canonical_json(card.get(name)).strip('"') for name in names}


def require_same(found: Mapping[str, str], wanted: Mapping[str, str], where: str, fix: str) -> None:
    """Refuse latents that do not belong: raise a three-column difference and the next command.

    Args:
        found: values of the shards (`identity`), or of a checkpoint.
        wanted: values that the caller needs; other keys are not compared.
        where: the folder or file of `found`, for the first line of the error.
        fix: what to do next.
    Raises: SpecMismatchError.
    """
    rows = [(key, found.get(key, "(nothing)"), value) for key, value in wanted.items() if found.get(key) != value]
    if not rows:
        return
    table = [("what", "found", "wanted"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    raise SpecMismatchError(f"{where} does not belong here:\n  " + "\n  ".join(lines) + f"\n{fix}")


def spec_of(card: Card) -> Spec:
    """The card's spec. Raises ShardError where the card's numbers are not a spec."""
    try:
        return Spec(**card.spec)
    except TypeError as error:
        raise ShardError(f"{CARD_NAME}: its spec has other fields than this toolkit's ({error})") from error
