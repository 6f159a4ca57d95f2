"""What every extractor promises beside its numbers: batches, other sizes and lengths, refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from torch import Tensor

from tests.support.evaluation_standin import moving_square, sound, write_checkpoint
from uniform.errors import ConfigError, InputError, WeightsError
from uniform.evaluation.extractors import c3d, cnn14, i3d
from uniform.evaluation.extractors.catalogue import extractors, open_extractor
from uniform.evaluation.extractors.contract import Extractor, VideoRule
from uniform.evaluation.extractors.frames import resized
from uniform.evaluation.extractors.running import exact_float32, in_batches
from uniform.evaluation.extractors.vggish import log_mel_examples

Open = Callable[[str], Any]
OURS = ("vggish", "cnn14_16k", "i3d_tats", "c3d_tgan2")


def _inputs(extractor: Extractor, clips: int) -> dict[str, Tensor]:
    """Clips of an unusual length and size."""
    if extractor.audio is not None:
        rate_hz = extractor.audio.rate_hz
        return {"waveform": torch.stack([sound(f"clip{i}", 2 * rate_hz + 77, rate_hz) for i in range(clips)])}
    count = extractor.video.frames or 11 if extractor.video else 0
    return {"frames": torch.stack([moving_square(f"clip{i}", count, 37, 53) for i in range(clips)])}


@pytest.mark.parametrize("name", OURS)
def test_a_clip_has_the_same_numbers_alone_and_among_others(open_standin: Open, name: str) -> None:
    extractor = open_standin(name)
    inputs = _inputs(extractor, 2)

    together = extractor.features(**inputs)
    alone = extractor.features(**{key: value[1:] for key, value in inputs.items()})
    turned = extractor.features(**{key: value.flip(0) for key, value in inputs.items()})

    assert isinstance(extractor, Extractor)
    assert tuple(together) == extractor.outputs
    for output in extractor.outputs:
        assert together[output].dtype == torch.float32
        assert torch.isfinite(together[output]).all()
        assert torch.equal(together[output][1:], alone[output])
        assert torch.equal(together[output], turned[output].flip(0))
        assert not torch.equal(together[output][0], together[output][1])
    if extractor.audio is not None:
        _refuses_what_is_no_waveform(extractor)
    else:
        _refuses_what_are_no_frames(extractor)


def _refuses_what_is_no_waveform(extractor: Extractor) -> None:
    assert extractor.audio is not None
    shortest = torch.zeros(1, extractor.audio.min_samples)
    broken = shortest.clone()
    broken[0, 5] = torch.nan

    assert extractor.features(waveform=shortest)
    for waveform, message in (
        (shortest[:, 1:], "or more"),
        (broken, "NaN or infinity"),
        (shortest.double(), "wanted torch.float32"),
        (shortest[0], "wanted torch.float32"),
        (shortest[:0], "wanted torch.float32"),
        (None, "no waveform"),
    ):
        with pytest.raises(InputError, match=message):
            extractor.features(waveform=waveform)


def _refuses_what_are_no_frames(extractor: Extractor) -> None:
    assert extractor.video is not None
    shortest = torch.zeros(1, extractor.video.min_frames, 8, 12, 3, dtype=torch.uint8)

    assert extractor.features(frames=shortest)
    for frames, message in (
        (shortest[:, 1:], "wanted"),
        (shortest.float(), r"wanted torch.uint8"),
        (shortest[..., :1], r"wanted torch.uint8"),
        (shortest[0], r"wanted torch.uint8"),
        (None, "no frames"),
    ):
        with pytest.raises(InputError, match=message):
            extractor.features(frames=frames)


def test_vggish_drops_what_does_not_fill_a_window() -> None:
    waveform = sound("long", 16_000 * 5 + 1_234, 16_000)

    examples = log_mel_examples(waveform)

    assert examples.shape == (5, 96, 64)  # 5.077 s hold five windows of 0.96 s
    assert torch.equal(examples[:4], log_mel_examples(waveform[: 4 * 15_360 + 240]))


@pytest.mark.parametrize("name", list(cnn14.FRONT_ENDS))
@pytest.mark.parametrize("seconds", [0.5, 1.37, 10.0])
def test_cnn14s_log_mel_equals_torchaudios(name: str, seconds: float) -> None:
    front_end = cnn14.FRONT_ENDS[name]
    waveform = sound("any", round(seconds * front_end.rate_hz), front_end.rate_hz)
    oracle = torchaudio.transforms.MelSpectrogram(
        sample_rate=front_end.rate_hz,
        n_fft=front_end.fft_samples,
        hop_length=front_end.hop_samples,
        f_min=front_end.min_hz,
        f_max=front_end.max_hz,
        n_mels=64,
        norm="slaney",
        mel_scale="slaney",
    )

    wanted = 10 * torch.log10(oracle(waveform).clamp(min=1e-10)).T

    torch.testing.assert_close(front_end(waveform), wanted, rtol=0, atol=2e-3)


def test_cnn14_hears_silence_as_the_floor() -> None:
    log_mel = cnn14.FRONT_ENDS["cnn14_16k"](torch.zeros(16_000))

    assert torch.equal(log_mel, torch.full((101, 64), -100.0))


def test_padding_gives_every_size_tensorflows_number_of_steps() -> None:
    for size in range(1, 40):
        for kernel, stride in ((7, 2), (3, 2), (2, 2), (3, 1), (1, 1)):
            x = torch.zeros(1, 1, size, size + 1, size + 2)
            padded = i3d._padded(x, (kernel,) * 3, (stride,) * 3, by_size=True)
            steps = [(length - kernel) // stride + 1 for length in padded.shape[2:]]
            assert steps == [-(-(size + extra) // stride) for extra in range(3)]


@pytest.mark.parametrize(("frames", "equal"), [(16, True), (24, True), (68, True), (10, False), (17, False)])
def test_the_two_paddings_of_i3d_agree_where_lengths_are_even(frames: int, equal: bool) -> None:
    x = torch.arange(frames, 0, -1.0)[None, None, :, None, None].expand(
        1, 1, frames, 8, 8
    )  # a maximum shows its window
    by_size, fixed = (
        i3d._pooled(i3d._pooled(x, (7, 7, 7), (2, 2, 2), way), (3, 3, 3), (2, 2, 2), way) for way in (True, False)
    )

    assert (by_size.shape == fixed.shape and torch.equal(by_size, fixed)) == equal


@pytest.mark.parametrize("by_size", [True, False])
def test_the_shortest_clip_of_i3d_leaves_two_steps_for_the_last_pooling(by_size: bool) -> None:
    network = i3d.I3d(eps=1e-3, by_size=by_size).eval()
    shortest = i3d.SHORTEST_FRAMES[by_size]
    with exact_float32():
        assert network(torch.zeros(1, 3, shortest, 224, 224)).shape == (1, 400)
        with pytest.raises(RuntimeError):
            network(torch.zeros(1, 3, shortest - 1, 224, 224))


@pytest.mark.parametrize(("height", "width"), [(37, 53), (53, 37), (224, 224), (500, 300), (1, 9)])
def test_a_centre_crop_is_in_the_middle_and_a_squash_keeps_the_edges(height: int, width: int) -> None:
    ramp = torch.linspace(0, 200, width).expand(height, width)
    frames = ramp[None, :, :, None].repeat(2, 1, 1, 3).to(torch.uint8)
    crop, squash = (
        resized(frames, VideoRule(fps=None, frames=None, size_px=224, crop=crop, filter="bilinear"))
        for crop in ("centre", "squash")
    )

    assert crop.shape == squash.shape == (2, 3, 224, 224)
    assert float(crop.mean()) == pytest.approx(float(frames.float().mean()), abs=2)
    assert float(squash[..., 0].max()) <= float(frames[..., 0, :].max()) + 1
    if width > height:
        assert crop[..., 0].min() > squash[..., 0].min()  # the sides are cut away


def test_a_c3d_input_of_one_colour_is_the_colour_less_the_mean_cube() -> None:
    mean = torch.rand(c3d.MEAN_SHAPE) * 100
    extractor = c3d.C3dExtractor("c3d_tgan2", torch.nn.Identity(), mean, (), torch.device("cpu"))
    frames = torch.tensor([10, 20, 30], dtype=torch.uint8).expand(16, 90, 61, 3)

    seen = extractor.network_input(frames) + mean[:, :, 8:120, 8:120]

    torch.testing.assert_close(seen, torch.tensor([30.0, 20, 10])[:, None, None, None].expand_as(seen))


def test_batches_always_have_one_size_and_the_filling_is_cut_off() -> None:
    sizes = []

    def double(rows: Tensor) -> Tensor:
        sizes.append(len(rows))
        return rows * 2

    rows = torch.arange(7.0)[:, None]

    assert torch.equal(in_batches(double, rows, 3), rows * 2)
    assert sizes == [3, 3, 3]


def test_float32_stays_float32_and_the_settings_come_back() -> None:
    before = torch.backends.cudnn.allow_tf32
    with exact_float32():
        assert not torch.backends.cudnn.allow_tf32
        assert not (torch.ones(1, requires_grad=True) * 2).requires_grad
    assert torch.backends.cudnn.allow_tf32 == before


def test_unknown_names_devices_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'vggish'"):
        open_extractor("vgish", tmp_path)
    with pytest.raises(ConfigError, match="wanted cpu, cuda"):
        open_extractor("vggish", tmp_path, "gpu0")
    with pytest.raises(WeightsError, match=r"uniform weights fetch vggish --copy-to .* By hand: "):
        open_extractor("vggish", tmp_path)


def test_unknown_weights_are_reported_and_refused_on_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_checkpoint("i3d_tats", tmp_path)

    extractor = open_extractor("i3d_tats", tmp_path)

    (file,) = extractor.weights
    assert (file.name, file.known) == ("i3d_pretrained_400.pt", False)
    assert file.sha256 in caplog.text
    with pytest.raises(WeightsError, match="not known as the published file"):
        open_extractor("i3d_tats", tmp_path, require_known=True)


def test_weights_of_the_wrong_sample_rate_are_refused(tmp_path: Path) -> None:
    write_checkpoint("cnn14_16k", tmp_path)
    (tmp_path / "Cnn14_16k_mAP=0.438.pth").rename(tmp_path / "Cnn14_mAP=0.431.pth")

    with pytest.raises(WeightsError, match=r"melW: found \(257, 64\), wanted \(513, 64\)"):
        open_extractor("cnn14_32k", tmp_path)


def test_every_extractor_of_the_catalogue_has_a_module_that_loads() -> None:
    import importlib

    for entry in extractors().values():
        module = importlib.import_module(f"uniform.evaluation.extractors.{entry.module}")
        assert callable(module.load)
