"""Log-mel to waveform without a vocoder: a non-negative fit inverts the mel filters, Griffin-Lim finds the phases.

The result depends on the log-mel only: phases start at zero, never at random.
"""

import torch
import torchaudio
from torch import Tensor

from uniform.codecs.log_mel import FLOOR, SILENCE, WINDOW_SAMPLES, MelFrontEnd

LOUDEST = 5.0
"""Log-mel values above it are cut; a sine at full scale reaches about 2."""
MOMENTUM = 0.99
"""Of the fast Griffin-Lim algorithm (Perraudin et al. 2013)."""


def waveform_from_log_mel(log_mel: Tensor, front_end: MelFrontEnd, *, iterations: int = 32, fits: int = 20) -> Tensor:
    """A waveform whose log-mel is close to the given one.

    Args:
        log_mel: float32 (N, M), natural log.
        front_end: the front end that `log_mel` is of.
        iterations: rounds of Griffin-Lim.
        fits: rounds of the fit of the magnitude spectrum to the mel values.
    Returns: float32 (N * hop,) in [-1, 1], on the device of `log_mel`.
    """
    hop = front_end.hop_samples
    mel = log_mel.clamp(SILENCE, LOUDEST).exp().T  # (M, N)
    # torchaudio centres frame i on sample i * hop, the front end half a hop later. One more frame on each side, and
    # half a hop cut off at each end, aligns every frame.
    mel = torch.cat([mel[:, :1], mel, mel[:, -1:]], dim=1)
    padded: Tensor = torchaudio.functional.griffinlim(
        _magnitudes(mel, front_end.filters.to(mel.device), fits),
        window=front_end.window.to(mel.device),
        n_fft=WINDOW_SAMPLES,
        hop_length=hop,
        win_length=WINDOW_SAMPLES,
        power=1.0,
        n_iter=iterations,
        momentum=MOMENTUM,
        length=hop * (mel.shape[1] - 1),
        rand_init=False,
    )
    return padded[hop // 2 : hop // 2 + hop * log_mel.shape[0]].clamp(-1.0, 1.0)


def _magnitudes(mel: Tensor, filters: Tensor, fits: int) -> Tensor:
    """A magnitude spectrum that gives these mel values: (M, N), (M, F) -> (F, N).

    Multiplicative updates (Lee and Seung 2000) from the clipped pseudo-inverse: non-negative at every step.
    """
    magnitudes: Tensor = (torch.linalg.pinv(filters) @ mel).clamp(min=FLOOR)
    wanted = filters.T @ mel
    for _ in range(fits):
        magnitudes = magnitudes * wanted / (filters.T @ (filters @ magnitudes) + 1e-10)
    return magnitudes
