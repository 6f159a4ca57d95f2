"""Encode and decode one media file, and write files to compare before and after."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uniform.atomic import write_bytes
from uniform.codecs.base import AudioCodec, VideoCodec, open_audio_codec, open_video_codec
from uniform.codecs.score import RoundTrip, round_trip
from uniform.fingerprint import digest
from uniform.media.clip_file import write_clip
from uniform.media.sandbox import MediaSandbox
from uniform.sampling.contact_sheet import Entry, contact_sheet, side_by_side
from uniform.spec import Spec


def reconstruct_file(
    source: Path, video: VideoCodec, audio: AudioCodec, spec: Spec, folder: Path, *, start_ms: int = 0
) -> Mapping[str, Any]:
    """Encode and decode the clip of `source` that begins at `start_ms`, and write the result.

    Writes `before.mp4`, `after.mp4`; `both.mp4`, the two side by side and twice in a row, first with the original,
    then with the decoded audio; `both.png`, frames and spectrograms; `scores.json`.

    Returns: the content of `scores.json`.
    Raises: MediaError where the file cannot be used.
    """
    with MediaSandbox() as sandbox:
        loaded = sandbox.load(source, spec, start_ms)
    assert loaded.frames is not None  # both were asked for
    assert loaded.waveform is not None
    frames, waveform = loaded.frames, loaded.waveform
    done = _encode_and_decode(video, audio, torch.from_numpy(frames), torch.from_numpy(waveform))
    after, decoded_audio = done.frames.numpy(), done.waveform.numpy()
    write_clip(folder / "before.mp4", frames, waveform, spec.fps, spec.rate_hz, audio_codec="aac")
    write_clip(folder / "after.mp4", after, decoded_audio, spec.fps, spec.rate_hz, audio_codec="aac")
    both = np.concatenate([side_by_side(frames, after)] * 2)
    write_clip(
        folder / "both.mp4", both, np.concatenate([waveform, decoded_audio]), spec.fps, spec.rate_hz, audio_codec="aac"
    )
    entries = [
        Entry(f"before: {source.name}", frames, waveform),
        Entry(f"after: {_summary(done)}", after, decoded_audio),
    ]
    write_bytes(folder / "both.png", contact_sheet(entries))
    metadata = {
        "source": source.name,
        "start_ms": start_ms,
        "spec": spec.as_dict(),
        "scores": asdict(done.scores),
        "notes": list(map(str, loaded.notes)),
        "video": video.card.as_dict(),
        "audio": audio.card.as_dict(),
    }
    write_bytes(folder / "scores.json", f"{json.dumps(metadata, indent=2, sort_keys=True)}\n".encode())
    return metadata


class Reconstructor:
    """Codecs as a function of a clip: encoded, kept in half precision as in shards, decoded. For the codec row.

    Args:
        spec: geometry of the clips; other sizes and lengths fail in the codecs.
        options: of the codecs, by kind, as `uniform.codecs.options.parse_options` gives them.
    """

    def __init__(
        self, video: str, audio: str, spec: Spec, device: str, options: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._video = open_video_codec(video, spec, **{"device": device, **options["video"]})
        self._audio = open_audio_codec(audio, spec, **{"device": device, **options["audio"]})
        cards = [self._video.card.as_dict(), self._audio.card.as_dict()]
        self.name = f"{video},{audio} {digest([cards, spec.as_dict()])}"
        self.rate_hz = spec.rate_hz

    def __call__(self, frames: np.ndarray, waveform: np.ndarray, rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames uint8 (T, H, W, 3) and waveform float32 (S,) after the codecs."""
        assert rate_hz == self.rate_hz
        done = _encode_and_decode(self._video, self._audio, torch.from_numpy(frames), torch.from_numpy(waveform))
        return done.frames.numpy(), done.waveform.numpy()


def _encode_and_decode(video: VideoCodec, audio: AudioCodec, frames: torch.Tensor, waveform: torch.Tensor) -> RoundTrip:
    with torch.inference_mode():
        video_latent = video.encode(frames[None])[0].half().cpu()  # as in a shard
        audio_latent = audio.encode(waveform[None])[0].half().cpu()
        return round_trip(video, audio, frames, waveform, video_latent, audio_latent)


def _summary(done: RoundTrip) -> str:
    return f"PSNR {done.scores.psnr_db:.1f} dB, log-mel error {done.scores.mel_error:.3f}"
