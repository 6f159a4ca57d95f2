"""A clip's sound as an audio rule wants it: channels joined, mean removed, resampled, cut, padded.

C channels, S samples.
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from uniform.errors import InputError
from uniform.evaluation.extractors.contract import AudioRule

FILTER_WIDTH = 6
"""Zero crossings of the sinc on each side."""
ROLL_OFF = 0.99
"""Cut-off frequency, share of the lower Nyquist frequency."""


def prepared(waveform: Tensor, rate_hz: int, rule: AudioRule) -> Tensor:
    """One clip's waveform by `rule`.

    The mean is removed before resampling, as audioldm_eval and av-benchmark do.

    Args:
        waveform: float32 (C, S), full scale 1.0.
        rate_hz: its samples per second.
        rule: what the network wants.
    Returns: float32 (S',) at `rule.rate_hz`.
    Raises: InputError for another shape or type.
    """
    if waveform.dim() != 2 or 0 in waveform.shape or waveform.dtype != torch.float32 or rate_hz < 1:
        raise InputError(
            f"waveform is {waveform.dtype} of shape {tuple(waveform.shape)} at {rate_hz} Hz; "
            f"wanted torch.float32 (channels, samples) at 1 Hz or more"
        )
    mono = waveform.mean(dim=0) if rule.channels == "mean" else waveform[0]
    if rule.remove_dc:
        mono = mono - mono.mean()
    mono = resampled(mono, rate_hz, rule.rate_hz)
    if rule.at_least_s is not None:
        mono = F.pad(mono, (0, max(round(rule.at_least_s * rule.rate_hz) - len(mono), 0)))
    if rule.length_s is None:
        return mono
    samples = round(rule.length_s * rule.rate_hz)
    if rule.pad == "zeros" and len(mono) < samples:
        mono = F.pad(mono, (0, samples - len(mono)))
    return mono[:samples]


def resampled(waveform: Tensor, rate_hz: int, wanted_hz: int) -> Tensor:
    """Sinc interpolation with a Hann window: (S,) to (ceil(S * wanted / rate),).

    Source: torchaudio's `transforms.Resample` with its default settings, which av-benchmark uses. audioldm_eval calls
    `functional.resample`: the same filters computed in float32, up to 4e-5 of full scale beside these at 44.1 kHz.
    """
    shared = math.gcd(rate_hz, wanted_hz)
    before, after = rate_hz // shared, wanted_hz // shared
    if before == after:
        return waveform
    kernels, width = _kernels(before, after)
    padded = F.pad(waveform, (width, width + before))
    found = F.conv1d(padded[None, None], kernels.to(waveform), stride=before)  # (1, after, steps)
    return found[0].T.reshape(-1)[: math.ceil(after * len(waveform) / before)]


@cache
def _kernels(before: int, after: int) -> tuple[Tensor, int]:
    """One filter per output phase, float32 (after, 1, taps), and how far each reaches to the left."""
    cut = min(before, after) * ROLL_OFF
    width = math.ceil(FILTER_WIDTH * before / cut)
    taps = torch.arange(-width, width + before, dtype=torch.float64) / before
    phases = torch.arange(after)[:, None] / after  # float32, as torchaudio has them
    t = ((taps - phases) * cut).clamp(-FILTER_WIDTH, FILTER_WIDTH)
    window = torch.cos(t * (math.pi / FILTER_WIDTH / 2)) ** 2
    return (torch.sinc(t) * window * (cut / before)).float()[:, None], width
