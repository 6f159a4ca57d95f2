import pytest
import torch
from safetensors.torch import load_file

from tests.support.paths import DATA
from uniform.codecs.log_mel import SILENCE, MelFrontEnd, mel_filters, peak_normalise
from uniform.errors import InputError
from uniform.spec import PAPER, TOY


def tone(frequency_hz: float, samples: int = 64_000, rate_hz: int = 16_000) -> torch.Tensor:
    return 0.3 * torch.sin(torch.arange(samples) / rate_hz * frequency_hz * 2 * torch.pi)


def test_log_mel_is_audioldms() -> None:
    reference = load_file(DATA / "audioldm_mel.safetensors")

    found = MelFrontEnd()(reference["wave"][None])

    assert found.shape == (1, 400, 64)
    assert (found[0].T - reference["log_mel"]).abs().max() < 1e-4


@pytest.mark.parametrize("spec", [PAPER, TOY])
def test_a_clip_has_one_mel_frame_per_hop(spec) -> None:
    found = MelFrontEnd.of(spec)(torch.zeros(2, spec.samples))

    assert found.shape == (2, spec.mel_frames, spec.mel_bins)


def test_silence_is_the_floor_and_not_zero() -> None:
    assert torch.allclose(MelFrontEnd()(torch.zeros(1, 1600)), torch.tensor(SILENCE))


def test_a_click_lands_in_the_frame_that_stands_for_its_sample() -> None:
    wave = torch.zeros(1, 16_000)
    wave[0, 160 * 50 + 80] = 1.0  # the middle of frame 50

    energy = MelFrontEnd()(wave)[0].exp().sum(1)

    assert energy.argmax() == 50
    assert torch.allclose(energy[49], energy[51], rtol=1e-3)


def test_a_tone_is_loudest_in_the_bin_of_its_frequency() -> None:
    centre_hz = mel_filters(16_000, 64)[30].argmax() * 16_000 / 1024

    assert MelFrontEnd()(tone(float(centre_hz))[None])[0, 200].argmax() == 30


def test_a_clip_gives_the_same_bytes_alone_and_in_a_batch() -> None:
    waves = torch.randn(7, 16_000, generator=torch.Generator().manual_seed(0)) * 0.1
    front_end = MelFrontEnd()

    together = front_end(waves)

    assert all(torch.equal(front_end(waves[i : i + 1])[0], together[i]) for i in range(7))
    assert torch.equal(front_end(waves.flip(0)).flip(0), together)


@pytest.mark.parametrize("shape", [(1, 63_999), (1, 320), (64_000,), (1, 2, 64_000)])
def test_odd_lengths_and_stereo_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="wanted"):
        MelFrontEnd()(torch.zeros(shape))


def test_samples_that_are_not_finite_stay_visible() -> None:
    wave = torch.zeros(2, 16_000)
    wave[0, 8000] = float("nan")

    found = MelFrontEnd()(wave)

    assert found[0].isnan().any()
    assert found[1].isfinite().all()


def test_peak_normalise_sets_the_loudest_sample_and_removes_the_mean() -> None:
    found = peak_normalise(torch.stack([tone(440) + 0.2, tone(440) * 0.01, torch.zeros(64_000)]))

    assert torch.allclose(found.abs().amax(1), torch.tensor([0.5, 0.5, 0.0]), atol=1e-4)
    assert found.mean(1).abs().max() < 1e-3
