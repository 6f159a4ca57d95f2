"""Write a sample as files: MP4, WAV, PNG with frames and spectrogram, metadata as JSON."""

import io
import json
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from uniform.atomic import write_bytes
from uniform.checkpoint_format import save_tensors
from uniform.media.clip_file import write_clip
from uniform.pair import Pair
from uniform.sampling.results import LATENTS_SUFFIX, METADATA_SUFFIX, unfinished_marker
from uniform.spec import Spec

STRIP_FRAMES = 8
"""Frames in the strip, evenly spaced over the clip."""
SPECTROGRAM_ROWS = 96
"""Height of the strip's spectrogram in pixels."""


@dataclass(frozen=True)
class Rendered:
    """A finished sample in memory."""

    frames: npt.NDArray[np.uint8]
    """(T, H, W, 3), RGB."""
    waveform: npt.NDArray[np.float32]
    """(samples,), full scale = 1.0."""
    metadata: Mapping[str, Any]
    """Request, settings and checkpoint. JSON-ready."""
    latents: Pair | None = None
    """Normalised latents without a batch axis; None where they are not kept."""


def write_sample(folder: Path, name: str, sample: Rendered, spec: Spec) -> Path:
    """Write `<name>.mp4` (H.264 + AAC), `<name>.wav`, `<name>.png`, latents if kept, and last `<name>.json`.

    The metadata is written last: a sample without it is unfinished and is made again.
    Returns: the path of the MP4.
    """
    video = folder / f"{name}.mp4"
    write_bytes(unfinished_marker(folder, name), b"")
    write_clip(video, sample.frames, sample.waveform, spec.fps, spec.rate_hz, audio_codec="aac")
    write_bytes(folder / f"{name}.wav", wav_bytes(sample.waveform, spec.rate_hz))
    write_bytes(folder / f"{name}.png", png_bytes(strip(sample.frames, sample.waveform)))
    if sample.latents is not None:
        tensors = {"video": sample.latents.video.cpu(), "audio": sample.latents.audio.cpu()}
        save_tensors(folder / f"{name}{LATENTS_SUFFIX}", tensors)
    metadata = json.dumps(sample.metadata, indent=2, sort_keys=True, ensure_ascii=False)
    write_bytes(folder / f"{name}{METADATA_SUFFIX}", f"{metadata}\n".encode())
    unfinished_marker(folder, name).unlink()
    return video


def wav_bytes(waveform: npt.NDArray[np.float32], rate_hz: int) -> bytes:
    """A 16-bit mono WAV file of `waveform` (samples,); values outside [-1, 1] are clipped."""
    pcm = np.round(np.clip(waveform, -1.0, 1.0) * 32_767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(pcm.tobytes())
    return buffer.getvalue()


def png_bytes(image: npt.NDArray[np.uint8]) -> bytes:
    """A PNG file of `image` (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def strip(
    frames: npt.NDArray[np.uint8], waveform: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:  # (H + SPECTROGRAM_ROWS, STRIP_FRAMES * W, 3)
    """Frames side by side over the spectrogram of the audio, on one time axis."""
    chosen = np.linspace(0, len(frames) - 1, STRIP_FRAMES).round().astype(int)
    row = np.concatenate(list(frames[chosen]), axis=1)
    return np.concatenate([row, spectrogram(waveform, row.shape[1])], axis=0)


def spectrogram(waveform: npt.NDArray[np.float32], width_px: int) -> npt.NDArray[np.uint8]:
    """Log-power spectrogram, (SPECTROGRAM_ROWS, width_px, 3): low frequencies below, 80 dB from black to white."""
    window = 4 * SPECTROGRAM_ROWS  # two bins for each row; 24 ms at 16 kHz
    starts = np.linspace(0, max(len(waveform) - window, 0), width_px).round().astype(int)
    padded = np.pad(waveform, (0, max(window - len(waveform), 0)))
    slices = np.stack([padded[start : start + window] for start in starts]) * np.hanning(window)
    power = np.abs(np.fft.rfft(slices, axis=1)[:, 1:]) ** 2  # (width, bins), without the constant part
    bands = power.reshape(width_px, SPECTROGRAM_ROWS, 2).mean(axis=2)
    level = 10 * np.log10(bands.T + 1e-10)  # (rows, width), dB
    top = max(level.max(), 0.0)  # 40 dB below a full-scale tone, so that the noise of a silent clip is dark
    shade = np.clip((level - top + 80) / 80, 0, 1)[::-1]
    return np.repeat((shade * 255).astype(np.uint8)[..., None], 3, axis=2)
