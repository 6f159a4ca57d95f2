"""Write the standard deviation of the codecs' posteriors to its own column, so that training can sample the posterior.

The options must be those of the stage encode_latents, which writes the means: each clip's metadata is compared. Only
networks have a posterior; the weight-free codecs are refused.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pipelines.clip import Clip
from pipelines.stage import Context, Store, Work
from pipelines.stage_support.encoding import (
    KINDS,
    Arrays,
    EncodeOptions,
    Media,
    Reader,
    drop_unless_finite,
    encode_together,
    encoded,
    npy,
)
from pipelines.stage_support.prefetch import Wait
from uniform.codecs.base import Posterior
from uniform.codecs.memory import MemoryBatches
from uniform.errors import ConfigError
from uniform.latents.format import AUDIO_STD_MEMBER, META_MEMBER, STDEV, VIDEO_STD_MEMBER, require_same
from uniform.spec import Spec

CODE_VERSION = 1
"""Raised with every change of this file that changes its results; the codecs have their own versions."""


@dataclass(frozen=True, kw_only=True)
class Stage(EncodeOptions):
    """Outputs the posterior stds of a normalised clip that has latents."""

    needs: ClassVar[tuple[str, ...]] = ("mp4", META_MEMBER)
    gives: ClassVar[tuple[str, ...]] = (VIDEO_STD_MEMBER, AUDIO_STD_MEMBER)
    reads: ClassVar[tuple[str, ...]] = ()
    store: ClassVar[Store] = Store("tar", STDEV)

    video: str = "opensora-v1.2"
    audio: str = "audioldm-s-full-v2"

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        """The codecs' cards. Device and batches change only the speed."""
        cards = {kind: card for kind, (card, _) in self.posteriors(spec).items()}
        return {"code_version": CODE_VERSION, "windows": self.windows, **cards}

    def posteriors(self, spec: Spec) -> dict[str, tuple[dict[str, Any], Posterior]]:
        """Card and codec by kind. Raises ConfigError for a codec without a posterior."""
        found: dict[str, tuple[dict[str, Any], Posterior]] = {}
        for kind, codec in zip(KINDS, self.codecs(spec), strict=True):
            if not isinstance(codec, Posterior):
                raise ConfigError(
                    f"encode_stdev.{kind} is '{codec.card.name}', a codec without a posterior, so it has no std. "
                    f"Remove this stage from the recipe, or encode with a network, '{getattr(Stage, kind)}'."
                )
            found[kind] = codec.card.as_dict(), codec
        return found

    def open(self, context: Context) -> Work:
        """The work; it can be called for many units and keeps the codecs."""
        return _PosteriorStds(self, context.spec).work


class _PosteriorStds:
    """A worker's codecs and batch size."""

    def __init__(self, stage: Stage, spec: Spec) -> None:
        self._stage, self._spec, self._reader = stage, spec, Reader(stage, spec)
        posteriors = stage.posteriors(spec)
        self._video, self._audio = (posteriors[kind][1] for kind in KINDS)
        self._wanted = {f"{kind} codec": str(card["fingerprint"]) for kind, (card, _) in posteriors.items()}
        self._wanted["windows"] = str(stage.windows)
        self._batches = MemoryBatches(stage.batch_clips, (self._video, self._audio))

    def work(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        """Encode the clips of one unit, in order."""
        for batch in self._reader.batches(map(self._require_same_codecs, clips), Wait()):
            for one, stds in encoded(self._encode, batch):
                yield one.clip if one.clip.dropped else self._finished(one.clip, stds)

    def _require_same_codecs(self, clip: Clip) -> Clip:
        metadata = json.loads(clip[META_MEMBER])
        found = {f"{kind} codec": str(metadata["codecs"][kind]) for kind in KINDS}
        found["windows"] = str(metadata.get("windows", 1))
        where = f"the latent of clip {clip.row.clip_id}"
        require_same(found, self._wanted, where, "Give encode_stdev the codecs and options of encode_latents.")
        return clip

    def _encode(self, readable: Sequence[Media]) -> list[Arrays | None]:
        return self._batches.run(self._encode_together, readable)

    def _encode_together(self, batch: Sequence[Media]) -> list[Arrays]:
        return encode_together(
            batch,
            self._spec,
            self._stage.windows,
            lambda frames: self._video.encode_moments(frames)[1],
            lambda waveforms: self._audio.encode_moments(waveforms)[1],
        )

    def _finished(self, clip: Clip, stds: Arrays | None) -> Clip:
        left = drop_unless_finite(clip, stds, "std")
        if left is not None or stds is None:
            return left or clip
        video, audio = (npy(std) for std in stds)
        return clip.with_fields(**{VIDEO_STD_MEMBER: video, AUDIO_STD_MEMBER: audio})
