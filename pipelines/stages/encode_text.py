"""Encode captions with a frozen text codec: features at the caption's real length, in one tar per caption set.

Captions repeat (class labels), so each distinct one is encoded once per window of clips; they are sorted by length, so
that batches hold little padding. Features do not depend on the other captions of a batch.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pipelines.clip import Clip
from pipelines.stage import Context, Resources, Store, Work
from pipelines.stage_support.caption_table import require_set_name
from pipelines.stage_support.prefetch import batched
from uniform.codecs.base import TextCodec, open_text_codec
from uniform.codecs.memory import MemoryBatches
from uniform.errors import ConfigError
from uniform.latents.format import TEXT_MEMBER, text_column
from uniform.media.notes import CAPTION_TOKENS, Note
from uniform.spec import Spec

CODE_VERSION = 1
"""Raised with every change of this file that changes its results; the codec has its own version."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Outputs the token features of a caption."""

    needs: ClassVar[tuple[str, ...]] = ("caption",)
    gives: ClassVar[tuple[str, ...]] = (TEXT_MEMBER,)
    reads: ClassVar[tuple[str, ...]] = ()  # the caption alone

    set: str = "labels"
    """Name of the caption set: the features are the column `text-<set>`."""
    codec: str = "bytes"
    """Text codec: "bytes", or "t5-v1_1-xxl" (paper)."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the codec, for instance `weights`, a folder."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    gpus: float = 0.0
    """Accelerators per worker on a cluster."""
    memory_gb: float = 1.0
    """Main memory per worker."""
    batch_clips: int = 16
    """Captions per batch; halved where they do not fit into memory."""
    window_clips: int = 128
    """Clips whose captions are sorted and encoded together."""

    def __post_init__(self) -> None:
        require_set_name("encode_text.set", self.set)
        for name in ("batch_clips", "window_clips"):
            if getattr(self, name) < 1:
                raise ConfigError(f"encode_text.{name} is {getattr(self, name)}; it must be 1 or more")

    @property
    def store(self) -> Store:
        """One tar per caption set and unit."""
        return Store("tar", text_column(self.set), caption_set=self.set)

    @property
    def resources(self) -> Resources:
        """Resources of one worker."""
        return Resources(cpus=1.0, gpus=self.gpus, memory_gb=self.memory_gb)

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        """The codec's card. Device and batches change only the speed."""
        return {"code_version": CODE_VERSION, "text": self.open_codec(spec).card.as_dict()}

    def open_codec(self, spec: Spec) -> TextCodec:
        """Open the codec; a network loads its weights at first use."""
        return open_text_codec(self.codec, spec, **{"device": self.device, **self.options})

    def open(self, context: Context) -> Work:
        """The work; it can be called for many units and keeps the codec."""
        codec = self.open_codec(context.spec)
        batches = MemoryBatches(self.batch_clips, (codec,))

        def work(clips: Iterator[Clip]) -> Iterator[Clip]:
            for window in batched(clips, self.window_clips):
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
