"""How fast the encode stage is on this machine, part by part, on generated clips."""

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.clip import Clip, Row
from pipelines.stages.encode_latents import Encoder, Stage
from uniform.codecs.base import open_video_codec
from uniform.codecs.score import psnr_db
from uniform.errors import ConfigError
from uniform.media.clip_file import read_clip, write_clip
from uniform.spec import Spec
from uniform.synthetic.worlds import make_clip


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """Figures of one run."""

    clips: int
    clips_per_s: float
    """Of the whole stage, with reading ahead and scoring."""
    clips_per_s_unqueued: float
    """The same without reading ahead."""
    waited: float
    """Share of the stage's time spent waiting for clips, with reading ahead."""
    waited_unqueued: float
    """The same without reading ahead: the share that reading takes."""
    seconds_per_clip: Mapping[str, float]
    """Of each part alone, one after the other."""
    memory_mb: float
    """Largest resident size of this process."""
    device_memory_mb: float | None
    """Largest allocation on the accelerator; None without one."""
    psnr_bf16_db: float | None
    """Pictures decoded from bfloat16's latents against those from float32's; None where it was not asked for."""

    def lines(self) -> list[str]:
        """The figures for people."""
        told = [
            f"{self.clips} clips: {self.clips_per_s:.2f} clips/s with reading ahead, "
            f"{self.clips_per_s_unqueued:.2f} without (ratio {self.clips_per_s / self.clips_per_s_unqueued:.2f})",
            f"waiting for data: {self.waited:.1%} of the time with reading ahead, {self.waited_unqueued:.1%} without",
            *(f"  {part}: {seconds:.3f} s a clip" for part, seconds in self.seconds_per_clip.items()),
            f"memory: {self.memory_mb:,.0f} MB",
        ]
        if self.device_memory_mb is not None:
            told.append(f"memory of the device: {self.device_memory_mb:,.0f} MB")
        if self.psnr_bf16_db is not None:
            told.append(f"bfloat16 against float32: PSNR {self.psnr_bf16_db:.2f} dB")
        return told


def run_bench(stage: Stage, spec: Spec, *, clips: int = 16, compare_bf16: bool = False) -> BenchReport:
    """Encode generated clips with `stage`, reading ahead and not, in one run on one machine.

    Args:
        stage: with the options to measure.
        clips: how many; all different.
        compare_bf16: encode one clip in bfloat16 too; the video codec must have a `dtype` option.
    Raises: ConfigError for no clips, or where bfloat16 was asked of a codec that has no such option.
    """
    if clips < 1:
        raise ConfigError(f"a benchmark of {clips} clips measures nothing; ask for 1 or more")
    if compare_bf16 and stage.video == "dct":
        raise ConfigError("the video codec 'dct' has no precision to choose; --bf16 is for networks")
    given = [generated_clip(number, spec) for number in range(clips)]
    encoder = Encoder(stage, spec)
    _drain(encoder, given[: stage.batch_clips])  # weights are read and kernels chosen at the first call
    ahead_s, waited = _timed(encoder, given)
    plain = Encoder(_changed(stage, prefetch_clips=0), spec)
    _drain(plain, given[: stage.batch_clips])
    plain_s, waited_unqueued = _timed(plain, given)
    return BenchReport(
        clips=clips,
        clips_per_s=clips / ahead_s,
        clips_per_s_unqueued=clips / plain_s,
        waited=waited,
        waited_unqueued=waited_unqueued,
        seconds_per_clip=_parts(stage, spec, given[: stage.batch_clips]),
        memory_mb=_peak_mb(),
        device_memory_mb=torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None,
        psnr_bf16_db=_bf16_psnr_db(stage, spec, given[0]) if compare_bf16 else None,
    )


def generated_clip(number: int, spec: Spec) -> Clip:
    """Clip `number` of world w1 as the clip stage would give it."""
    world = make_clip("w1", number, spec)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_clip(path, world.frames, world.waveform, spec.fps, spec.rate_hz)
        content = path.read_bytes()
    row = Row(
        clip_id=f"{number:016x}",
        dataset="generated",
        split="train",
        source_kind="local",
        source_id=str(number),
        source_uri=f"{number}.mp4",
        start_ms=0,
        duration_ms=spec.duration_ms,
    )
    return Clip(row).with_fields(mp4=content)


def _changed(stage: Stage, **options: Any) -> Stage:
    return Stage(**{**vars(stage), **options})


def _drain(encoder: Encoder, clips: list[Clip]) -> None:
    for clip in encoder.work(iter(clips)):
        if clip.dropped is not None:
            raise ConfigError(f"a generated clip was not encoded: {clip.dropped.code}, {clip.dropped.reason}")


def _timed(encoder: Encoder, clips: list[Clip]) -> tuple[float, float]:
    began = time.monotonic()
    _drain(encoder, clips)
    return time.monotonic() - began, encoder.waited_share


def _parts(stage: Stage, spec: Spec, clips: list[Clip]) -> dict[str, float]:
    """Seconds a clip of reading, encoding and decoding, each alone."""
    video, audio = stage.codecs(spec)
    seconds: dict[str, float] = {}

    def timed(part: str, work: Callable[[], Any]) -> Any:
        _synchronise()
        began = time.monotonic()
        result = work()
        _synchronise()
        seconds[part] = (time.monotonic() - began) / len(clips)
        return result

    with torch.inference_mode():
        media = timed("read", lambda: [read_clip(clip["mp4"], spec) for clip in clips])
        frames = torch.stack([torch.from_numpy(picture) for picture, _ in media])
        sounds = torch.stack([torch.from_numpy(sound) for _, sound in media])
        video.encode(frames), audio.encode(sounds)  # the first call reads the weights
        pictures = timed("encode the picture", lambda: video.encode(frames))
        tones = timed("encode the sound", lambda: audio.encode(sounds))
        timed("decode the picture", lambda: video.decode(pictures, spec.frames))
        audio.decode(tones[:1], spec.samples)
        timed("decode the sound", lambda: audio.decode(tones, spec.samples))
    return seconds


def _bf16_psnr_db(stage: Stage, spec: Spec, clip: Clip) -> float:
    frames = torch.from_numpy(read_clip(clip["mp4"], spec)[0])
    options = {"device": stage.device, **stage.video_options}
    exact = open_video_codec(stage.video, spec, **{**options, "dtype": "float32"})
    rough = open_video_codec(stage.video, spec, **{**options, "dtype": "bfloat16"})
    with torch.inference_mode():
        wanted, found = (exact.decode(codec.encode(frames[None]), spec.frames)[0].cpu() for codec in (exact, rough))
    return psnr_db(wanted, found)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # bytes there, KiB here
