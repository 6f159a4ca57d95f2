"""Caption clips with a video language model; a gate checks the captions and bad ones get one retry.

Threads decode and scale the frames of the next clips while the model generates. The order of work within a unit is
fixed, so a unit gives the same captions on every worker. New captions never change a latent.
"""

import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from pipelines.clip import Clip
from pipelines.codes import CODES
from pipelines.stage import Context, Resources, Store, Work
from pipelines.stage_support.caption_table import require_set_name
from pipelines.stage_support.prefetch import Wait, batched, prefetched
from pipelines.stage_support.source_file import NEEDS, SourceFiles
from uniform.captioning.base import Captioner, Question
from uniform.captioning.caption_retry import CaptionResult, CaptionRetry, Speed
from uniform.captioning.frames import chosen
from uniform.captioning.gate import Rules
from uniform.captioning.prompts import Prompt, read_prompt
from uniform.captioning.settings import Settings, read_captioner
from uniform.captioning.wording import MOST_LABELS, label_words
from uniform.config import nearest
from uniform.errors import ConfigError, MediaError
from uniform.media.clip_file import read_clip
from uniform.media.notes import CAPTION_EDIT, Note
from uniform.media.sandbox import MediaSandbox
from uniform.spec import Spec

CODE_VERSION = 1
"""Raised with every change of this file that changes its results; model, prompt and gate have their own provenance."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Outputs `caption`, its `origin`, the `attempt` that it comes from, and its `finish` (stop or length)."""

    gives: ClassVar[tuple[str, ...]] = ("caption", "origin", "attempt", "finish")

    captioner: str = "opensora"
    """Name of a built-in captioner (uniform/captioning/captioners.toml), or path of a TOML file with one block."""
    model: str | None = None
    """Folder or hub id; None is that of the captioner."""
    revision: str | None = None
    """Revision on the hub."""
    prompt: str | None = None
    """Name or path of a prompt; None is that of the captioner."""
    set: str = "model"
    """Name of this caption set: its table is `captions/<set>`."""
    frames: int | None = None
    """Frames of a clip that the model gets."""
    pooling: tuple[int, ...] | None = None
    """PLLaVA: frames, rows, columns of the visual tokens."""
    frames_from: Literal["clip", "source"] = "clip"
    """clip: frames of the normalised clip; source: frames of the source, same crop, `source_px` high and wide."""
    source_px: int = 336
    """Size of frames from the source; a multiple of 8."""
    max_new_tokens: int | None = None
    """Limit of the first attempt."""
    again: bool = True
    """Retry once, with the captioner's retry decoding, where the gate rejects a caption."""
    accept: tuple[str, ...] = ()
    """Faults of the gate that are accepted, for instance "caption_cut"."""
    most_words: int = 220
    """Longer captions are cut to whole sentences, since the text encoder would cut them within one."""
    drop_filler: bool = True
    """Cut sentences that only name what is absent."""
    batch_clips: int | None = None
    """Clips per batch; halved where they do not fit into memory."""
    window_batches: int = 4
    """Batches that are sorted by prompt length together."""
    prefetch_clips: int = 16
    """Clips whose frames are prefetched."""
    decode_threads: int = 2
    """Threads that decode frames."""
    address: str | None = None
    """URL of the server; None is that of the captioner."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    dtype: str | None = None
    """bfloat16 or float32."""
    gpus: float = 0.0
    """Accelerators per worker on a cluster; a fraction shares one."""
    memory_gb: float = 4.0
    """Main memory per worker; PLLaVA 13B needs 27 GB of it while it loads."""

    def __post_init__(self) -> None:
        require_set_name("caption_video.set", self.set)
        least = {"most_words": 1, "window_batches": 1, "prefetch_clips": 0, "decode_threads": 1, "gpus": 0}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ConfigError(f"caption_video.{name} is {getattr(self, name)}; it must be {minimum} or more")
        if self.source_px < 8 or self.source_px % 8:
            raise ConfigError(f"caption_video.source_px is {self.source_px}; it must be a multiple of 8")
        faults = [code for code in CODES if code.startswith("caption_")]
        for code in self.accept:
            if code not in faults:
                raise ConfigError(f"caption_video.accept: there is no fault '{code}'{nearest(code, faults)}")
        _ = self.settings, self.wording  # refuse a wrong captioner or prompt before anything is loaded

    @cached_property
    def settings(self) -> Settings:
        """Settings of the captioner with this stage's options."""
        captioner = read_captioner(self.captioner)
        names = ("model", "revision", "prompt", "frames", "pooling", "dtype", "batch_clips", "address")
        changed = captioner.changed(**{name: getattr(self, name) for name in names})
        decoding = changed.decoding
        if self.max_new_tokens is not None:
            decoding = dataclasses.replace(decoding, max_new_tokens=self.max_new_tokens)
        return dataclasses.replace(changed, decoding=decoding, again=changed.again if self.again else None)

    @cached_property
    def wording(self) -> Prompt:
        """The prompt."""
        return read_prompt(self.settings.prompt)

    @property
    def rules(self) -> Rules:
        """Options of the gate."""
        return Rules(most_words=self.most_words, drop_filler=self.drop_filler, accept=self.accept)

    @property
    def needs(self) -> tuple[str, ...]:
        """The normalised clip, or the source file."""
        return ("mp4",) if self.frames_from == "clip" else NEEDS

    @property
    def reads(self) -> tuple[str, ...]:
        """Manifest columns that change a caption."""
        return ("labels",) if self.wording.names_labels else ()

    @property
    def store(self) -> Store:
        """One table per caption set."""
        return Store("table", f"captions/{self.set}", caption_set=self.set)

    @property
    def resources(self) -> Resources:
        """One core for the model, and with an accelerator one for each decoding thread."""
        return Resources(cpus=1.0 + (self.decode_threads if self.gpus else 0), gpus=self.gpus, memory_gb=self.memory_gb)

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        """Model, prompt, frames, decoding and gate. Batches and device change only the speed."""
        pixels = {"from": self.frames_from, "px": self.source_px if self.frames_from == "source" else None}
        return {
            "code_version": CODE_VERSION,
            "source": "model",
            "captioner": self.settings.provenance(),
            "pixels": pixels,
            "gate": self.rules.provenance(),
        }

    def open(self, context: Context) -> Work:
        """The work; it can be called for many units and keeps the model."""
        return CaptionWork(self, context.spec, self.settings.open(self.device), context.folder).work


@dataclass(frozen=True)
class _Prepared:
    """A clip and its question; no question for a dropped clip."""

    clip: Clip
    question: Question | None


class CaptionWork:
    """A worker's model and its batch size."""

    def __init__(self, stage: Stage, spec: Spec, captioner: Captioner, folder: Path = Path()) -> None:
        self.captioner = captioner
        self.last = Speed()
        """Throughput of the last unit, with its prefetching."""
        self.waited_share = 0.0
        """Share of the last unit's time that the model waited for frames."""
        self._stage, self._spec = stage, spec
        settings = stage.settings
        self._caption_retry = CaptionRetry(
            captioner, settings.decoding, settings.again, stage.rules, settings.batch_clips
        )
        self._window = settings.batch_clips * stage.window_batches
        self._sources = SourceFiles(folder)
        self._sandbox = MediaSandbox() if stage.frames_from == "source" else None

    def work(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        """Caption the clips of one unit, in order."""
        stage, wait, speed, began = self._stage, Wait(), Speed(), time.monotonic()
        prepared = prefetched(self._prepare, clips, ahead=stage.prefetch_clips, threads=stage.decode_threads, wait=wait)
        for window in batched(prepared, self._window):
            questions = [one.question for one in window if one.question is not None]
            results = iter(self._caption_retry.caption(questions, speed))
            for one in window:
                yield one.clip if one.question is None else _finished(one.clip, next(results))
        speed.seconds = time.monotonic() - began
        self.last, self.waited_share = speed, wait.seconds / (speed.seconds or 1e-9)
        _logger.info("%s; %.0f%% of the time waiting for frames", speed, 100 * self.waited_share)

    def _prepare(self, clip: Clip) -> _Prepared:
        stage = self._stage
        try:
            frames = chosen(self._frames(clip), stage.settings.frames)
        except MediaError as error:
            return _Prepared(clip.drop(error.code, error.reason), None)
        fields = {**label_words(clip.row.labels, most=MOST_LABELS), "dataset": clip.row.dataset}
        if stage.wording.names_labels and not clip.row.labels:
            return _Prepared(clip.drop("caption_missing", "the prompt names labels, and the clip has none"), None)
        return _Prepared(clip, Question(self.captioner.prepare(frames), *stage.wording.filled(fields)))

    def _frames(self, clip: Clip) -> Any:
        if self._sandbox is None:
            return read_clip(clip["mp4"], self._spec, longer=True)[0]
        size = self._stage.source_px
        spec = dataclasses.replace(self._spec, height_px=size, width_px=size)
        return self._sandbox.load(self._sources.find(clip), spec, clip.row.start_ms, want_audio=False).frames


def _finished(clip: Clip, result: CaptionResult | None) -> Clip:
    if result is None:
        return clip.drop("out_of_memory", "one clip alone does not fit into the memory of the device")
    if result.code is not None:
        return clip.drop(result.code, result.reason)
    for edit in result.notes:
        clip = clip.note(Note(CAPTION_EDIT, edit))
    return clip.with_fields(caption=result.caption, origin="model", attempt=result.attempt, finish=result.finish)
