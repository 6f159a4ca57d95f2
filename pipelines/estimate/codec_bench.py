"""Benchmark the encode stage on this machine, step by step, on generated clips."""

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
    """The figures of one benchmark."""

    clips: int
    clips_per_s: float
    """The whole stage, with prefetching and scoring."""
    clips_per_s_unqueued: float
    """The same without prefetching."""
    waited: float
    """Share of the time that the stage waits for clips, with prefetching."""
    waited_unqueued: float
    """The same without prefetching: the share that reading takes."""
    seconds_per_clip: Mapping[str, float]
    """Each step measured alone."""
    memory_mb: float
    """Largest resident size of this process."""
    device_memory_mb: float | None
    """Largest allocation on the accelerator; None without one."""
    psnr_bf16_db: float | None
    """Video decoded from bfloat16 latents against video from float32 latents; None where it was not requested."""

    def lines(self) -> list[str]:
        """The figures as text."""
        lines = [
            f"{self.clips} clips: {self.clips_per_s:.2f} clips/s with prefetching, "
            f"{self.clips_per_s_unqueued:.2f} without (ratio {self.clips_per_s / self.clips_per_s_unqueued:.2f})",
            f"waiting for data: {self.waited:.1%} of the time with prefetching, {self.waited_unqueued:.1%} without",
            *(f"  {part}: {seconds:.3f} s per clip" for part, seconds in self.seconds_per_clip.items()),
            f"memory: {self.memory_mb:,.0f} MB",
        ]
        if self.device_memory_mb is not None:
            lines.append(f"device memory: {self.device_memory_mb:,.0f} MB")
        if self.psnr_bf16_db is not None:
            lines.append(f"bfloat16 against float32: PSNR {self.psnr_bf16_db:.2f} dB")
        return lines


def run_bench(stage: Stage, spec: Spec, *, clips: int = 16, compare_bf16: bool = False) -> BenchReport:
    """Encode generated clips with `stage`, with and without prefetching, in one run on one machine.

    Args:
        stage: with the options to measure.
        spec: of the clips.
        clips: how many; all differ.
        compare_bf16: encode one clip in bfloat16 too; the video codec must have a `dtype` option.
    Raises: ConfigError for no clips, or where bfloat16 was requested of a codec without a `dtype` option.
    """
    if clips < 1:
        raise ConfigError(f"the number of clips to measure is {clips}; it must be 1 or more")
    if compare_bf16 and stage.video == "dct":
        raise ConfigError("the video codec 'dct' has no dtype option; --bf16 needs a network codec")
    made = [generated_clip(number, spec) for number in range(clips)]
    encoder = Encoder(stage, spec)
    _drain(encoder, made[: stage.batch_clips])  # the first call reads weights and selects kernels
    ahead_s, waited = _timed(encoder, made)
    plain = Encoder(_changed(stage, prefetch_clips=0), spec)
    _drain(plain, made[: stage.batch_clips])
    plain_s, waited_unqueued = _timed(plain, made)
    return BenchReport(
        clips=clips,
        clips_per_s=clips / ahead_s,
        clips_per_s_unqueued=clips / plain_s,
        waited=waited,
        waited_unqueued=waited_unqueued,
        seconds_per_clip=_parts(stage, spec, made[: stage.batch_clips]),
        memory_mb=_peak_mb(),
        device_memory_mb=torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None,
        psnr_bf16_db=_bf16_psnr_db(stage, spec, made[0]) if compare_bf16 else None,
    )


def generated_clip(number: int, spec: Spec) -> Clip:
    """Clip `number` of the synthetic world w1, as the stage clip_media would write it."""
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
    """Seconds per clip of reading, encoding and decoding, each alone."""
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
        frames = torch.stack([torch.from_numpy(clip_frames) for clip_frames, _ in media])
        waveforms = torch.stack([torch.from_numpy(waveform) for _, waveform in media])
        video.encode(frames), audio.encode(waveforms)  # the first call reads the weights
        video_latents = timed("encode video", lambda: video.encode(frames))
        audio_latents = timed("encode audio", lambda: audio.encode(waveforms))
        timed("decode video", lambda: video.decode(video_latents, spec.frames))
        audio.decode(audio_latents[:1], spec.samples)
        timed("decode audio", lambda: audio.decode(audio_latents, spec.samples))
    return seconds


def _bf16_psnr_db(stage: Stage, spec: Spec, clip: Clip) -> float:
    frames = torch.from_numpy(read_clip(clip["mp4"], spec)[0])
    options = {"device": stage.device, **stage.video_options}
    exact = open_video_codec(stage.video, spec, **{**options, "dtype": "float32"})
    bf16 = open_video_codec(stage.video, spec, **{**options, "dtype": "bfloat16"})
    with torch.inference_mode():
        wanted, found = (exact.decode(codec.encode(frames[None]), spec.frames)[0].cpu() for codec in (exact, bf16))
    return psnr_db(wanted, found)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # bytes there, KiB here
