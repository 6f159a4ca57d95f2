"""Cut each clip out of its source and normalise it: frame rate, size, sample rate, length, codec.

The source is opened only in a child process with limits on time and memory. A file that crashes, hangs or exhausts the
decoder drops its clip with a code, a retry with higher limits can keep it, and the worker continues.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from pipelines.clip import Clip
from pipelines.stage import Context, Resources, Store, Work
from pipelines.stage_support.source_file import NEEDS, SourceFiles
from uniform.errors import ConfigError, MediaError
from uniform.media.encode import CLIP_CRF, CLIP_PRESET
from uniform.media.sandbox import MIN_MEMORY_MB, MediaSandbox
from uniform.media.video import Fit
from uniform.spec import Spec, long_spec

MAX_CRF = 51
CODE_VERSION = 1
"""Raised with every change of decoding, scaling or encoding that changes the bytes of a clip."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Source file to normalised clip."""

    needs: ClassVar[tuple[str, ...]] = NEEDS  # path of the media file, its bytes and digest when it was fetched
    gives: ClassVar[tuple[str, ...]] = ("mp4",)  # bytes: H.264 + FLAC in MP4, geometry of the spec
    reads: ClassVar[tuple[str, ...]] = ()  # only the start of the clip, which is part of its id
    store: ClassVar[Store] = Store("tar", "clips")
    resources: ClassVar[Resources] = Resources(cpus=1.0, memory_gb=1.5)

    fit: Fit = "crop"
    """crop: scale the shorter side, then crop the centre; squash: scale the whole frame without keeping its aspect."""
    windows: int = 1
    """Clips of the spec that each clip holds, one beginning at each whole second: a clip is windows - 1 s longer.
    A recipe sets it once, as `windows` of [media]. Paper, 4.1: 1."""
    crf: int = CLIP_CRF
    """Quality of x264, 0 (lossless) to 51."""
    time_limit_s: float = 60.0
    """Wall-clock seconds for one clip."""
    memory_limit_mb: int = 1536
    """Memory limit of the decoding child process."""

    def __post_init__(self) -> None:
        if self.fit not in ("crop", "squash"):
            raise ConfigError(f"clip_media.fit is '{self.fit}'; it must be 'crop' or 'squash'")
        if self.windows < 1:
            raise ConfigError(f"clip_media.windows is {self.windows}; it must be 1 or more")
        if not 0 <= self.crf <= MAX_CRF:
            raise ConfigError(f"clip_media.crf is {self.crf}; it must lie between 0 and {MAX_CRF}")
        if self.time_limit_s <= 0:
            raise ConfigError(f"clip_media.time_limit_s is {self.time_limit_s}; it must be more than 0")
        if self.memory_limit_mb < MIN_MEMORY_MB:
            raise ConfigError(
                f"clip_media.memory_limit_mb is {self.memory_limit_mb}; it must be {MIN_MEMORY_MB} or more"
            )

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        """Everything that changes the bytes of a clip. Limits do not.

        FFmpeg's version is left out too: a security release must not make weeks of clips stale. CODE_VERSION is raised
        by hand where a version changes what is decoded.
        """
        options = {"fit": self.fit, "crf": self.crf, "preset": CLIP_PRESET}
        return {"code_version": CODE_VERSION, "options": options, "spec": asdict(long_spec(spec, self.windows))}

    def open(self, context: Context) -> Work:
        """The work; its child process starts at the first clip and ends with the worker."""
        spec = long_spec(context.spec, self.windows)
        sources = SourceFiles(context.folder)
        sandbox = MediaSandbox(time_limit_s=self.time_limit_s, memory_limit_mb=self.memory_limit_mb)

        def work(clips: Iterator[Clip]) -> Iterator[Clip]:
            for clip in clips:
                yield self._normalise(clip, sources, sandbox, spec)

        return work

    def _normalise(self, clip: Clip, sources: SourceFiles, sandbox: MediaSandbox, spec: Spec) -> Clip:
        if clip.row.duration_ms < spec.duration_ms:  # beyond the span, the source need not fit the label
            return clip.drop(
                "too_short", f"the listing's span is {clip.row.duration_ms:,} ms, a clip is {spec.duration_ms:,} ms"
            )
        try:
            made = sandbox.normalise(sources.find(clip), spec, clip.row.start_ms, fit=self.fit, crf=self.crf)
        except MediaError as error:
            return clip.drop(error.code, error.reason)
        for note in made.notes:
            clip = clip.note(note)
        return clip.with_fields(mp4=made.mp4)
