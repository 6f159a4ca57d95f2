"""AV-Align against five published codes: onsets, flow, peaks and scores."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from uniform.errors import ConfigError
from uniform.evaluation import av_align_published as published
from uniform.evaluation.av_align import FORMULAS, motion_peaks

DATA = Path(__file__).parents[2] / "data" / "evaluation"
GOLDEN = json.loads((DATA / "av_align.json").read_text())
ARRAYS = load_file(DATA / "av_align.safetensors")
CODES = {"v1_2023": "v1", "seeing_hearing": "v1", "v2_2025": "v2", "pr_svg": "pr", "javis": "javis"}

needs_libraries = pytest.mark.skipif(published.available() is not None, reason="librosa and OpenCV are not installed")


@pytest.mark.parametrize("name", list(GOLDEN["peaks"]))
def test_formulas_equal_their_codes_on_given_times(name: str) -> None:
    golden = GOLDEN["peaks"][name]
    onsets, peaks = np.array(golden["onsets_s"]), np.array(golden["peaks_s"])

    for code, formula in CODES.items():
        found = FORMULAS[formula](onsets, peaks, golden["fps"])
        if golden[code] == "ZeroDivisionError" or (name == "nothing" and formula == "pr"):
            assert found is None, "a clip without events has no score; the mean counts it apart"
        else:
            assert found == golden[code], code


def _normal(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(zlib.crc32(f"input:{name}".encode())))


def _wave(name: str, samples: int, rate: int) -> np.ndarray:
    n = torch.arange(samples)
    burst = 2.0 ** -((n % (rate * 2 // 5)) // (rate // 50)).float()
    seed = zlib.crc32(name.encode())
    low, high = 110 + seed % 330, 1500 + seed % 2500
    tones = (n * 2 * low // rate % 2).float() / 8 - 1 / 16 + (n * 2 * high // rate % 2).float() / 32 - 1 / 64
    sound = _normal(name, (samples,)) * burst / 8 + tones
    return ((sound.clamp(-0.99, 0.99) * 32768).floor() / 32768).numpy()


def _video(name: str, frames: int, height: int, width: int) -> np.ndarray:
    def patches(part: str, h: int, w: int, side: int) -> torch.Tensor:
        grid = (_normal(f"{name}.{part}", (-(-h // side), -(-w // side), 3)) * 48 + 112).clamp(0, 255).floor().long()
        return grid.repeat_interleave(side, 0).repeat_interleave(side, 1)[:h, :w]

    ground, size = patches("ground", height, width, 8), max(height // 3, 4)
    square = (patches("square", size, size, 4) // 2 + 120).clamp(0, 255)
    made = []
    for t in range(frames):
        image = torch.roll(ground, 2 * t, 1).clone()
        fall = (5 * t) % (2 * (height - size))
        top = min(fall, 2 * (height - size) - fall)
        left = (3 * t) % (width - size)
        image[top : top + size, left : left + size] = square
        for axis in (0, 1):
            image = (torch.roll(image, 1, axis) + 2 * image + torch.roll(image, -1, axis)) // 4
        made.append(image.to(torch.uint8))
    return torch.stack(made).numpy()


@needs_libraries
@pytest.mark.parametrize(
    ("name", "sound", "picture"),
    [("synthetic", (64000, 16000), (68, 96, 96)), ("synthetic2", (88200, 22050), (64, 96, 128))],
)
def test_times_and_scores_of_whole_clips_equal_their_codes(
    name: str, sound: tuple[int, int], picture: tuple[int, int, int]
) -> None:
    golden = GOLDEN[name]
    waveform, frames = _wave(f"eval.av_align.{name}", *sound), _video(f"eval.av_align.{name}", *picture)

    times = published.times(frames, waveform, sound[1])

    strength = published.onset_strength(published.at_22050(waveform, sound[1]), published.RATE_HZ)
    wanted = ARRAYS[f"{name}.onset_strength"]
    assert np.abs(strength - wanted).max() <= 1e-4 * np.abs(wanted).max()
    assert np.abs(times.flow_px - ARRAYS[f"{name}.flow"]).max() <= 1e-4 * ARRAYS[f"{name}.flow"].max()
    assert times.onsets_s.tolist() == golden["onsets_s_22050"]
    assert times.native_onsets_s.tolist() == golden["onsets_s_native_rate"]
    assert motion_peaks(times.flow_px, golden["fps"]).tolist() == golden["video_peaks_s"]
    least = published.LEAST_FLOW_PX
    assert motion_peaks(times.flow_px, golden["fps"], least).tolist() == golden["video_peaks_least_01_s"]
    for code, variant in {**CODES, "javis_native_rate": "javis_native"}.items():
        assert published.score(variant, times, golden["fps"]) == golden[code], code


@needs_libraries
def test_a_real_clip_scores_the_same_each_time() -> None:
    """With more threads and the first pair computed twice, this clip scores 0.0588 or 0.1176 by chance."""
    golden = GOLDEN["frog"]
    waveform = ARRAYS["frog.wave_int16"].astype(np.float32) / 32768

    for _ in range(2):
        amount = published.flow(ARRAYS["frog.gray"])
        assert np.abs(amount - ARRAYS["frog.flow"]).max() <= 1e-4 * ARRAYS["frog.flow"].max()
        onsets = published.onsets(waveform, 22_050)
        found = published.AlignmentTimes(onsets_s=onsets, native_onsets_s=onsets, flow_px=amount)
        for code, variant in CODES.items():
            assert published.score(variant, found, golden["fps"]) == golden[code], code


def test_a_missing_library_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published.importlib.util, "find_spec", lambda name: None)
    assert "librosa and cv2" in (published.available() or "")

    def refuse(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(published.importlib, "import_module", refuse)
    with pytest.raises(ConfigError, match=r"uniform-toolkit\[eval\]"):
        published.flow(np.zeros((2, 8, 8), np.uint8))
