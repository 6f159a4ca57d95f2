"""The offline tier sees what it promises to see: on real clips where they lie beside the repository, and on generated
clips always. Real halves lie closer together than a real half and a damaged one, and more damage lies farther away.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from uniform.evaluation.metrics import frechet, mmd_poly

from tests.support import degradations as damage
from tests.support.paths import ROOT
from uniform.errors import MediaError
from uniform.evaluation.extractors.catalogue import open_extractor
from uniform.media.decode import Request, decode
from uniform.spec import PAPER, TOY
from uniform.synthetic.worlds import make_clip

REAL_CLIPS = ROOT.parent / "shared" / "clips"
SAME_SOURCE_TWICE = {
    "n18_same_256_25fps_16k.mp4",
    "r02_frog_cc0.webm",
    "r10_sync_test.mkv",
    "r13_bbb_5.1_720p.mp4",
}
QUIET_RMS = 1e-3
SPLITS = 20
Damage = Mapping[str, Callable[[Tensor], Tensor]]

OF_FRAMES: Damage = {
    "blur 2x": lambda x: damage.blurred(x, 2),
    "blur 4x": lambda x: damage.blurred(x, 4),
    "noise": lambda x: damage.with_image_noise(x, 10),
    "JPEG 10": lambda x: damage.through_jpeg(x, 10),
}
OF_TIME: Damage = {
    "frozen": damage.frozen,
    "shuffled": damage.shuffled,
    "flicker": lambda x: damage.flickering(x, 20),
}
OF_SOUND: Damage = {
    "noise 30 dB": lambda x: damage.with_noise(x, 30),
    "noise 10 dB": lambda x: damage.with_noise(x, 10),
    "low-pass 3 kHz": lambda x: damage.low_passed(x, 3_000, 16_000),
    "low-pass 1 kHz": lambda x: damage.low_passed(x, 1_000, 16_000),
    "reversed": lambda x: x.flip(1),
}
Clips = tuple[Tensor, Tensor]
"""Frames uint8 (B, T, H, W, 3) and waveforms float32 (B, S)."""


@pytest.fixture(scope="module")
def real() -> Clips:
    if not REAL_CLIPS.is_dir():
        pytest.skip(f"no real clips in {REAL_CLIPS}")
    spec = replace(PAPER, height_px=128, width_px=128)
    frames, waveforms = [], []
    for path in sorted(path for path in REAL_CLIPS.iterdir() if path.name[0] in "nr"):
        for start_ms in (0, 4000) if path.name not in SAME_SOURCE_TWICE else ():
            try:
                clip = decode(path, Request(spec=spec, start_ms=start_ms))
            except MediaError:
                break  # shorter than 8 s
            assert clip.frames is not None
            assert clip.waveform is not None
            frames.append(np.stack([frame.to_ndarray(format="rgb24") for frame in clip.frames]))
            waveforms.append(clip.waveform)
    assert len(frames) >= 30
    return torch.from_numpy(np.stack(frames)), torch.from_numpy(np.stack(waveforms))


@pytest.fixture(scope="module")
def generated() -> Clips:
    clips = [make_clip(f"w{1 + seed % 6}", seed, TOY) for seed in range(24)]
    return (
        torch.from_numpy(np.stack([clip.frames for clip in clips])),
        torch.from_numpy(np.stack([clip.waveform for clip in clips])),
    )


def _distances(intact: np.ndarray, damaged: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Frechet and kernel distance of an intact half from the other, intact ("real") and damaged: mean of splits."""
    sets = {"real": intact, **damaged}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sets}
    draw = np.random.default_rng(0)
    for _ in range(SPLITS):
        order = draw.permutation(len(intact))
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        for name, features in sets.items():
            pair = intact[first], features[second]
            found[name].append((frechet(*pair), mmd_poly(*pair)))
    return {name: (np.mean([f for f, _ in pairs]), np.mean([k for _, k in pairs])) for name, pairs in found.items()}


def _assert_seen(found: Mapping[str, tuple[float, float]]) -> None:
    floor = found["real"]
    for name, distances in found.items():
        if name != "real":
            assert distances[0] > floor[0], f"{name}: Frechet distance {distances[0]:.2f}, real halves {floor[0]:.2f}"
            assert distances[1] > floor[1], f"{name}: kernel distance {distances[1]:.4f}, real halves {floor[1]:.4f}"


def _images(frames: Tensor) -> dict[str, tuple[float, float]]:
    extractor = open_extractor("effnet_lite0", Path())
    few = frames[:, [0, frames.shape[1] // 2]]

    def embed(x: Tensor) -> np.ndarray:
        return extractor.features(frames=x)["embedding"].flatten(0, 1).numpy()

    return _distances(embed(few), {name: embed(spoil(few)) for name, spoil in OF_FRAMES.items()})


def _motion(frames: Tensor) -> dict[str, tuple[float, float]]:
    extractor = open_extractor("transnetv2", Path())

    def embed(x: Tensor) -> np.ndarray:
        return extractor.features(frames=x)["embedding"].numpy()

    return _distances(embed(frames), {name: embed(spoil(frames)) for name, spoil in OF_TIME.items()})


def _sound(waveforms: Tensor) -> dict[str, tuple[float, float]]:
    extractor = open_extractor("yamnet", Path())
    loud = waveforms.unfold(1, 15_600, 15_600).square().mean(2).sqrt().flatten() > QUIET_RMS

    def embed(x: Tensor) -> np.ndarray:
        return extractor.features(waveform=x)["embedding"].flatten(0, 1)[loud].numpy()

    return _distances(embed(waveforms), {name: embed(spoil(waveforms)) for name, spoil in OF_SOUND.items()})


@pytest.mark.parametrize(("clips", "count"), [("real", 30), ("generated", 12)])
def test_single_frames_blur_noise_and_compression_are_seen(
    clips: str, count: int, request: pytest.FixtureRequest
) -> None:
    found = _images(request.getfixturevalue(clips)[0][:count])

    _assert_seen(found)
    assert found["blur 2x"][0] < found["blur 4x"][0]
    assert found["blur 2x"][1] < found["blur 4x"][1]


@pytest.mark.parametrize(("clips", "count", "length"), [("real", 20, 34), ("generated", 12, 24)])
def test_breaks_in_time_are_seen(clips: str, count: int, length: int, request: pytest.FixtureRequest) -> None:
    frames = request.getfixturevalue(clips)[0][:count, :length]

    _assert_seen(_motion(frames))


@pytest.mark.parametrize("clips", ["real", "generated"])
def test_noise_and_filters_of_sound_are_seen(clips: str, request: pytest.FixtureRequest) -> None:
    found = _sound(request.getfixturevalue(clips)[1])

    _assert_seen(found)
    assert found["noise 30 dB"][0] < found["noise 10 dB"][0]
    assert found["noise 30 dB"][1] < found["noise 10 dB"][1]
