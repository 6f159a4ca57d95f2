"""Caption clips with a video language model: frames from the clip, answers judged, bad ones asked once more.

Threads decode and scale the next clips' frames while the model writes. What is kept says which attempt it is. The order
of the work within a unit is fixed, so a unit gives the same captions whoever does it; it costs a unit's captions and
never a latent.
"""

import dataclasses
import itertools
import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from pipelines.clip import Clip
from pipelines.codes import CODES
from pipelines.stage import Context, Resources, Store, Work
from pipelines.stage_support.prefetch import Wait, prefetched
from uniform.captioning.base import Captioner, Question
from uniform.captioning.caption_retry import CaptionRetry, Outcome, Speed
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
"""Raised with every change of this file that changes its results; model, prompt and gate have facts of their own."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Gives `caption`, where it comes from, which attempt it is, and how the model ended it."""

    gives: ClassVar[tuple[str, ...]] = ("caption", "origin", "attempt", "finish")

    captioner: str = "opensora"
    """Name of a captioner (uniform/captioning/captioners.toml), or path of a TOML file with one block."""
    model: str | None = None
    """Folder or hub id, in place of the captioner's."""
    revision: str | None = None
    """Of the hub."""
    prompt: str | None = None
    """Name or path of a prompt, in place of the captioner's."""
    set: str = "model"
    """Name of this set of captions: its table is `captions/<set>`."""
    frames: int | None = None
    """Frames that the model sees."""
    pooling: tuple[int, ...] | None = None
    """PLLaVA: frames, rows, columns of the visual tokens."""
    frames_from: Literal["clip", "source"] = "clip"
    """clip: the normalised clip's pixels; source: the source file's, in the same crop, `source_px` high and wide."""
    source_px: int = 336
    """Size of frames from the source; a multiple of 8."""
    max_new_tokens: int | None = None
    """Of the first attempt."""
    again: bool = True
    """Ask once more, with the captioner's other settings, where the gate refuses a caption."""
    accept: tuple[str, ...] = ()
    """Faults of the gate that are let pass, for instance "caption_cut"."""
    most_words: int = 220
    """Longer captions are cut to whole sentences: the text encoder would cut them anywhere."""
    drop_filler: bool = True
    """Cut sentences that only say what is absent."""
    batch_clips: int | None = None
    """Clips that go to the model together; halved where they do not fit into memory."""
    window_batches: int = 4
    """Batches whose clips are sorted by the length of their prompts."""
    prefetch_clips: int = 16
    """Clips whose frames are read ahead of the model."""
    decode_threads: int = 2
    """Threads that read frames."""
    address: str | None = None
    """Of a server, in place of the captioner's."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    dtype: str | None = None
    """bfloat16 or float32."""
    gpus: float = 0.0
    """Accelerators that one worker reserves on a cluster; a fraction shares one."""
    memory_gb: float = 4.0
    """Main memory that one worker reserves; PLLaVA 13B passes through 27 GB of it while it loads."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", self.set):
            raise ConfigError(f"caption_video.set is {self.set!r}; it must be lower case letters, digits, _ and -")
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
        _ = self.settings, self.wording  # a wrong name or prompt stops before anything is loaded

    @cached_property
    def settings(self) -> Settings:
        """The captioner with this stage's options."""
        chosen_one = read_captioner(self.captioner)
        names = ("model", "revision", "prompt", "frames", "pooling", "dtype", "batch_clips", "address")
        changed = chosen_one.changed(**{name: getattr(self, name) for name in names})
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
        """The gate's."""
        return Rules(most_words=self.most_words, drop_filler=self.drop_filler, accept=self.accept)

    @property
    def needs(self) -> tuple[str, ...]:
        """The normalised clip, or the source file."""
        return ("mp4",) if self.frames_from == "clip" else ("source",)

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of the row that change a caption."""
        return ("labels",) if self.wording.names_labels else ()

    @property
    def store(self) -> Store:
        """One table per set of captions."""
        return Store("table", f"captions/{self.set}", caption_set=self.set)

    @property
    def resources(self) -> Resources:
        """One core for the model and one for each reading thread beside an accelerator."""
        return Resources(cpus=1.0 + (self.decode_threads if self.gpus else 0), gpus=self.gpus, memory_gb=self.memory_gb)

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        """Model, prompt, frames, decoding and gate. Batches and device decide how fast."""
        pixels = {"from": self.frames_from, "px": self.source_px if self.frames_from == "source" else None}
        return {
            "code_version": CODE_VERSION,
            "source": "model",
            "captioner": self.settings.facts(),
            "pixels": pixels,
            "gate": self.rules.facts(),
        }

    def open(self, context: Context) -> Work:
        """The work; it may be called for many units and keeps the model."""
        return CaptionWork(self, context.spec, self.settings.open(self.device)).work


@dataclass(frozen=True)
class _Seen:
    """A clip and what the captioner is asked about it; no question where the file could not be read."""

    clip: Clip
    question: Question | None


class CaptionWork:
    """A worker's model, and how far its batches had to shrink."""

    def __init__(self, stage: Stage, spec: Spec, captioner: Captioner) -> None:
        self.captioner = captioner
        self.last = Speed()
        """Of the last unit: its seconds are those of the whole unit."""
        self.waited_share = 0.0
        """Part of the last unit's time that the model stood still for want of frames."""
        self._stage, self._spec = stage, spec
        settings = stage.settings
        self._caption_retry = CaptionRetry(
            captioner, settings.decoding, settings.again, stage.rules, settings.batch_clips
        )
        self._window = settings.batch_clips * stage.window_batches
        self._sandbox = MediaSandbox() if stage.frames_from == "source" else None

    def work(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        """Clips of one unit, in order; those that stay have captions."""
        stage, wait, speed, began = self._stage, Wait(), Speed(), time.monotonic()
        seen = prefetched(self._see, clips, ahead=stage.prefetch_clips, threads=stage.decode_threads, wait=wait)
        for window in _windows(seen, self._window):
            questions = [one.question for one in window if one.question is not None]
            outcomes = iter(self._caption_retry.ask(questions, speed))
            for one in window:
                yield one.clip if one.question is None else _finished(one.clip, next(outcomes))
        speed.seconds = time.monotonic() - began
        self.last, self.waited_share = speed, wait.seconds / (speed.seconds or 1e-9)
        _logger.info("%s; %.0f%% of the time waiting for frames", speed, 100 * self.waited_share)

    def _see(self, clip: Clip) -> _Seen:
        stage = self._stage
        try:
            frames = chosen(self._frames(clip), stage.settings.frames)
        except MediaError as error:
            return _Seen(clip.drop(error.code, error.reason), None)
        words = {**label_words(clip.row.labels, most=MOST_LABELS), "dataset": clip.row.dataset}
        if stage.wording.names_labels and not clip.row.labels:
            return _Seen(clip.drop("caption_missing", "the prompt names labels, and the row has none"), None)
        return _Seen(clip, Question(self.captioner.prepare(frames), *stage.wording.filled(words)))

    def _frames(self, clip: Clip) -> Any:
        if self._sandbox is None:
            return read_clip(clip["mp4"], self._spec, longer=True)[0]
        size = self._stage.source_px
        spec = dataclasses.replace(self._spec, height_px=size, width_px=size)
        return self._sandbox.load(Path(clip["source"]), spec, clip.row.start_ms, want_audio=False).frames


def _finished(clip: Clip, outcome: Outcome | None) -> Clip:
    if outcome is None:
        return clip.drop("out_of_memory", "one clip alone does not fit into the memory of the device")
    if outcome.code is not None:
        return clip.drop(outcome.code, outcome.reason)
    for edit in outcome.remarks:
        clip = clip.note(Note(CAPTION_EDIT, edit))
    return clip.with_fields(caption=outcome.caption, origin="model", attempt=outcome.attempt, finish=outcome.finish)


def _windows(seen: Iterable[_Seen], size: int) -> Iterator[Sequence[_Seen]]:
    iterator = iter(seen)
    while window := list(itertools.islice(iterator, size)):
        yield window
