"""Small, deterministic stages and clips, to test the pipeline without media or codecs."""

import hashlib
import io
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.clip import Clip, Row
from pipelines.recipe import Recipe, make_recipe
from pipelines.run.job import Run, make_run
from pipelines.stage import Context, Resources, Store, Work
from uniform.fingerprint import digest
from uniform.media.notes import Note
from uniform.spec import TOY, Spec

LIGHT = Resources(cpus=0.1)


def rows(number: int, dataset: str = "fake", **changes: Any) -> list[Row]:
    """Manifest rows with ids that are hashes, as the real ones."""
    return [
        Row(
            **{
                "clip_id": hashlib.sha256(f"{dataset}{n}".encode()).hexdigest()[:16],
                "dataset": dataset,
                "split": "train" if n % 4 else "test",
                "source_kind": "local",
                "source_id": f"source-{n}",
                "source_uri": f"clips/{n}.mp4",
                "start_ms": 1000 * n,
                "duration_ms": 2000,
                "labels": ("dog", "bark") if n % 2 else ("rain",),
                "license": "CC-BY-4.0",
                "extra": {"number": str(n)},
                **changes,
            }
        )
        for n in range(number)
    ]


def seed(row: Row) -> int:
    """A number that depends on the clip alone."""
    return int(row.clip_id[:8], 16)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Stands for the clip stage: gives bytes, drops every `reject_every`th clip, adds a note."""

    needs = ()
    gives = ("mp4",)
    store = Store("tar", "clips")
    resources = LIGHT
    reads = ("source_uri",)

    size: int = 400
    pause_s: float = 0.0
    reject_every: int | None = 7
    fail_if_missing: str | None = None
    """A file; while it is missing, every fifth clip is dropped with a retryable code."""
    kills: tuple[str, ...] = ()
    """Clips that kill the process they are worked on in."""
    raises: str | None = None
    """Clip at which the stage's code fails."""

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        return {"size": self.size, "reject_every": self.reject_every}

    def open(self, context: Context) -> Work:
        return lambda clips: map(self._one, clips)

    def _one(self, clip: Clip) -> Clip:
        time.sleep(self.pause_s)
        number = seed(clip.row)
        if clip.row.clip_id in self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        if clip.row.clip_id == self.raises:
            raise ZeroDivisionError("a bug in a stage")
        if self.fail_if_missing and number % 5 == 0 and not Path(self.fail_if_missing).exists():
            return clip.drop("missing_source", "not there yet")
        if self.reject_every and number % self.reject_every == 0:
            return clip.drop("too_short", f"1.{number % 10} s")
        return clip.with_fields(mp4=np.random.default_rng(number).bytes(self.size)).note(Note("number", number))


@dataclass(frozen=True, kw_only=True)
class Look:
    """Stands for the check stage: keeps nothing but the ledger."""

    needs = ("mp4",)
    gives = ()
    store = Store("ledger")
    resources = LIGHT
    reads = ()

    floor: int = 20

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        return {"floor": self.floor}

    def open(self, context: Context) -> Work:
        return self._all

    def _all(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        for clip in clips:
            yield clip.drop("silent", "quiet") if clip["mp4"][0] < self.floor else clip


@dataclass(frozen=True, kw_only=True)
class Say:
    """Stands for the caption stage: a table."""

    needs = ()
    gives = ("caption", "origin")
    resources = LIGHT
    reads = ("labels",)

    set: str = "labels"
    prefix: str = ""

    @property
    def store(self) -> Store:
        return Store("table", f"captions/{self.set}", caption_set=self.set)

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        return {"prefix": self.prefix}

    def open(self, context: Context) -> Work:
        return lambda clips: (
            clip.with_fields(caption=self.prefix + " ".join(clip.row.labels), origin="label") for clip in clips
        )


@dataclass(frozen=True, kw_only=True)
class Spell:
    """Stands for the text stage."""

    needs = ("caption",)
    gives = ("text.npy",)
    resources = LIGHT
    reads = ()

    set: str = "labels"

    @property
    def store(self) -> Store:
        return Store("tar", f"text-{self.set}", caption_set=self.set)

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        return {"text": codec_card("letters"), "set": self.set}

    def open(self, context: Context) -> Work:
        return lambda clips: (clip.with_fields(**{"text.npy": self._features(clip["caption"])}) for clip in clips)

    def _features(self, caption: str) -> bytes:
        letters = np.frombuffer(caption.encode(), dtype=np.uint8)
        return npy((letters[:, None] / 255 * np.ones(4)).astype(np.float16))


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Stands for the encode stage: latents of the right shape that depend on the clip's bytes."""

    needs = ("mp4",)
    gives = ("video.npy", "audio.npy", "json")
    store = Store("tar", "latents")
    resources = LIGHT
    reads = ()

    gain: float = 1.0
    pause_s: float = 0.0
    kills: tuple[str, ...] = ()
    """Clips that kill the process they are worked on in, each once."""
    killed: str = ""
    """Folder with one file for each clip that has killed."""

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        card = codec_card("fake", gain=self.gain)
        return {"video": card, "audio": card}

    def open(self, context: Context) -> Work:
        return lambda clips: (self._one(clip, context.spec) for clip in clips)

    def _one(self, clip: Clip, spec: Spec) -> Clip:
        time.sleep(self.pause_s)
        if clip.row.clip_id in self.kills and not (Path(self.killed) / clip.row.clip_id).exists():
            (Path(self.killed) / clip.row.clip_id).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        rng = np.random.default_rng(list(clip["mp4"][:8]))
        latents = {
            "video.npy": npy((rng.standard_normal(spec.video_latent) * self.gain).astype(np.float16)),
            "audio.npy": npy((rng.standard_normal(spec.audio_latent) * self.gain).astype(np.float16)),
        }
        metadata = {"clip_id": clip.row.clip_id, "notes": [str(note) for note in clip.notes]}
        return clip.with_fields(**latents, json=json.dumps(metadata, sort_keys=True).encode())


def codec_card(name: str, **settings: Any) -> dict[str, Any]:
    """What `CodecCard.as_dict()` gives; made by hand, because that module loads torch."""
    metadata = {"name": name, "code_version": 1, "settings": settings, "weights_sha256": None}
    return {**metadata, "shift": [0.0] * 4, "scale": [1.0] * 4, "fingerprint": digest(metadata)}


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def recipe(unit_clips: int = 6, *, cut: Cut | None = None, **stages: Any) -> Recipe:
    """A small recipe from clips to latents: cut, look, say, spell, encode."""
    chosen = {"cut": cut or Cut(), "look": Look(), "say": Say(), "spell": Spell(), "encode": Encode(), **stages}
    return make_recipe("fakes", TOY, unit_clips, list(chosen.items()))


def fake_run(out: Path, clips: int = 20, made: Recipe | None = None, **options: Any) -> Run:
    """A run over the fakes."""
    return make_run(rows(clips), made or recipe(), out, **options)


def results(out: Path) -> dict[str, bytes]:
    """Every file that must come out the same, byte for byte, however the run went."""
    names = [*out.glob("*.tar"), out / "index.parquet", out / "card.json", *(out / "captions").rglob("*.parquet")]
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(names) if path.exists()}
