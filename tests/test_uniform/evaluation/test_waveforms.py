"""Waveforms come to a network as its audio rule says."""

import pytest
import torch
import torchaudio

from tests.support.evaluation_standin import sound
from uniform.errors import InputError
from uniform.evaluation.extractors.contract import AudioRule
from uniform.evaluation.extractors.waveforms import prepared, resampled


@pytest.mark.parametrize(
    ("rate_hz", "wanted_hz", "samples"),
    [(48_000, 16_000, 38_400), (44_100, 32_000, 50_001), (44_100, 16_000, 4_410), (16_000, 32_000, 5_001), (8, 6, 5)],
)
def test_resampling_equals_torchaudios_default(rate_hz: int, wanted_hz: int, samples: int) -> None:
    waveform = sound("resample", samples, 16_000)

    found = resampled(waveform, rate_hz, wanted_hz)

    oracle = torchaudio.transforms.Resample(rate_hz, wanted_hz)(waveform)
    assert found.shape == oracle.shape
    torch.testing.assert_close(found, oracle, rtol=0, atol=2e-6)


def test_a_waveform_at_the_wanted_rate_keeps_its_numbers() -> None:
    waveform = sound("kept", 1_000, 16_000)

    assert torch.equal(prepared(waveform[None], 16_000, _rule()), waveform)


def test_channels_are_averaged_or_the_first_is_taken() -> None:
    stereo = torch.stack([sound("left", 900, 16_000), sound("right", 900, 16_000)])

    assert torch.equal(prepared(stereo, 16_000, _rule(channels="mean")), stereo.mean(dim=0))
    assert torch.equal(prepared(stereo, 16_000, _rule(channels="first")), stereo[0])


def test_the_mean_goes_before_resampling() -> None:
    waveform = sound("dc", 4_410, 16_000) + 0.25

    found = prepared(waveform[None], 44_100, _rule(remove_dc=True))

    assert torch.equal(found, resampled(waveform - waveform.mean(), 44_100, 16_000))
    assert float(prepared(waveform[None], 44_100, _rule()).mean()) > 0.2


def test_a_length_cuts_and_pads_only_where_the_rule_says_so() -> None:
    waveform = sound("length", 16_000, 16_000)[None]

    assert len(prepared(waveform, 16_000, _rule(length_s=0.5))) == 8_000
    assert len(prepared(waveform, 16_000, _rule(length_s=2.0))) == 16_000
    padded = prepared(waveform, 16_000, _rule(length_s=2.0, pad="zeros"))
    assert len(padded) == 32_000
    assert torch.equal(padded[:16_000], waveform[0])
    assert not padded[16_000:].any()
    assert len(prepared(waveform, 16_000, _rule(at_least_s=2.0))) == 32_000
    assert len(prepared(waveform, 16_000, _rule(at_least_s=0.5))) == 16_000


@pytest.mark.parametrize("waveform", [torch.zeros(5), torch.zeros(1, 0), torch.zeros(1, 5, dtype=torch.float64)])
def test_another_shape_or_type_is_refused(waveform: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"wanted torch.float32 \(channels, samples\)"):
        prepared(waveform, 16_000, _rule())


def _rule(**settings: object) -> AudioRule:
    return AudioRule(**{"rate_hz": 16_000, "channels": "mean", "remove_dc": False, **settings})  # type: ignore[arg-type]
