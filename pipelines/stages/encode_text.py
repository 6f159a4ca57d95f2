"""Encode captions with a frozen text codec: features at the caption's real length, in a tar of their own per set.

Captions repeat (class labels), so each different one is encoded once per window; and they go to the codec sorted by
length, so that a batch pads little. The codec promises that features do not depend on the captions beside it.
"""

import io
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pipelines.clip import Clip
from pipelines.stage import Context, Resources, Store, Work
from uniform.codecs.base import TextCodec, open_text_codec
from uniform.codecs.memory import MemoryBatches
from uniform.errors import ConfigError
from uniform.latents.format import TEXT_MEMBER, text_column
from uniform.media.notes import CAPTION_TOKENS, Note
from uniform.spec import Spec

CODE_VERSION = 1
"""Raised with every change of this file that changes its results; the codec has a version of its own."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Caption to token features."""

    needs: ClassVar[tuple[str, ...]] = ("caption",)
    gives: ClassVar[tuple[str, ...]] = (TEXT_MEMBER,)
    reads: ClassVar[tuple[str, ...]] = ()  # nothing of the row: only the caption

    set: str = "labels"
    """Name of the set of captions: the features are the column `text-<set>`."""
    codec: str = "bytes"
    """Text codec: "bytes", or "t5-v1_1-xxl" for the paper's."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the codec, for instance `weights`, a folder."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    gpus: float = 0.0
    """Accelerators that one worker reserves on a cluster."""
    memory_gb: float = 1.0
    """Main memory that one worker reserves."""
    batch_clips: int = 16
    """Captions that go to the codec together; halved where they do not fit into memory."""
    window_clips: int = 128
    """Clips whose captions are sorted and encoded before the first of them is passed on."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", self.set):
            raise ConfigError(f"encode_text.set is {self.set!r}; it must be lower case letters, digits, _ and -")
        for name in ("batch_clips", "window_clips"):
            if getattr(self, name) < 1:
                raise ConfigError(f"encode_text.{name} is {getattr(self, name)}; it must be 1 or more")

    @property
    def store(self) -> Store:
        """One tar per set of captions and unit."""
        return Store("tar", text_column(self.set), caption_set=self.set)

    @property
    def resources(self) -> Resources:
        """What one worker takes."""
        return Resources(cpus=1.0, gpus=self.gpus, memory_gb=self.memory_gb)

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        """The codec's card; batches and device decide how fast, not what."""
        return {"code_version": CODE_VERSION, "text": self.open_codec(spec).card.as_dict()}

    def open_codec(self, spec: Spec) -> TextCodec:
        """The codec; a network reads its weights when it is first used."""
        return open_text_codec(self.codec, spec, **{"device": self.device, **self.options})

    def open(self, context: Context) -> Work:
        """The work; it may be called for many units and keeps the codec."""
        codec = self.open_codec(context.spec)
        batches = MemoryBatches(self.batch_clips, (codec,))

        def work(clips: Iterator[Clip]) -> Iterator[Clip]:
            for window in _windows(clips, self.window_clips):
                yield from _encode(window, codec, batches)

        return work


def _encode(window: Sequence[Clip], codec: TextCodec, batches: MemoryBatches) -> Iterator[Clip]:
    lengths = {caption: codec.count_tokens(caption) for caption in {clip["caption"] for clip in window}}
    ordered = sorted(lengths, key=lambda caption: (lengths[caption], caption))

    def encode(captions: Sequence[str]) -> list[Tensor]:
        with torch.inference_mode():
            return [features.half().cpu() for features in codec.encode(list(captions))]

    found = dict(zip(ordered, batches.run(encode, ordered), strict=True))
    for clip in window:
        yield _finished(clip, found[clip["caption"]], lengths[clip["caption"]], codec.max_tokens)


def _finished(clip: Clip, features: Tensor | None, tokens: int, max_tokens: int) -> Clip:
    if features is None:
        return clip.drop("out_of_memory", "one caption alone does not fit into the memory of the device")
    if not features.isfinite().all():
        return clip.drop("not_finite", "the text features hold NaN, infinity, or more than float16 can hold")
    if tokens > max_tokens:
        clip = clip.note(Note(CAPTION_TOKENS, tokens, {"kept": max_tokens}))
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(features.numpy()), allow_pickle=False)
    return clip.with_fields(**{TEXT_MEMBER: file.getvalue()})


def _windows(clips: Iterable[Clip], size: int) -> Iterator[list[Clip]]:
    iterator = iter(clips)
    while window := list(itertools.islice(iterator, size)):
        yield window
