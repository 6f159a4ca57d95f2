"""One media file through the codecs and back, to look at and to listen to."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uniform.atomic import write_bytes
from uniform.codecs.base import AudioCodec, VideoCodec
from uniform.codecs.score import RoundTrip, round_trip
from uniform.media.clip_file import write_clip
from uniform.media.sandbox import MediaSandbox
from uniform.sampling.contact_sheet import Entry, contact_sheet, side_by_side
from uniform.spec import Spec


def roundtrip_file(
    source: Path, video: VideoCodec, audio: AudioCodec, spec: Spec, folder: Path, *, start_ms: int = 0
) -> Mapping[str, Any]:
    """Encode and decode the clip of `source` that begins at `start_ms`, and write what came back.

    Writes `before.mp4`, `after.mp4`; `both.mp4`, the two side by side and played twice, first with the sound before,
    then with the sound after; `both.png`, frames and spectrograms; `scores.json`.

    Returns: what stands in `scores.json`.
    Raises: MediaError where the file cannot be used.
    """
    with MediaSandbox() as sandbox:
        loaded = sandbox.load(source, spec, start_ms)
    assert loaded.frames is not None  # both were asked for
    assert loaded.waveform is not None
    frames, waveform = loaded.frames, loaded.waveform
    done = _through(video, audio, torch.from_numpy(frames), torch.from_numpy(waveform))
    after, sound = done.frames.numpy(), done.waveform.numpy()
    write_clip(folder / "before.mp4", frames, waveform, spec.fps, spec.rate_hz, audio_codec="aac")
    write_clip(folder / "after.mp4", after, sound, spec.fps, spec.rate_hz, audio_codec="aac")
    both = np.concatenate([side_by_side(frames, after)] * 2)
    write_clip(folder / "both.mp4", both, np.concatenate([waveform, sound]), spec.fps, spec.rate_hz, audio_codec="aac")
    entries = [Entry(f"before: {source.name}", frames, waveform), Entry(f"after: {_named(done)}", after, sound)]
    write_bytes(folder / "both.png", contact_sheet(entries))
    facts = {
        "source": source.name,
        "start_ms": start_ms,
        "spec": spec.as_dict(),
        "scores": asdict(done.scores),
        "notes": list(loaded.notes),
        "video": video.card.as_dict(),
        "audio": audio.card.as_dict(),
    }
    write_bytes(folder / "scores.json", f"{json.dumps(facts, indent=2, sort_keys=True)}\n".encode())
    return facts


def _through(video: VideoCodec, audio: AudioCodec, frames: torch.Tensor, waveform: torch.Tensor) -> RoundTrip:
    with torch.inference_mode():
        video_latent = video.encode(frames[None])[0].half().cpu()  # as it would be kept
        audio_latent = audio.encode(waveform[None])[0].half().cpu()
        return round_trip(video, audio, frames, waveform, video_latent, audio_latent)


def _named(done: RoundTrip) -> str:
    return f"PSNR {done.scores.psnr_db:.1f} dB, log-mel {done.scores.mel_error:.3f} nepers off"
