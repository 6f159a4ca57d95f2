"""The log-mel spectrogram of a waveform, as in the training of AudioLDM's VAE and vocoder.

Source: AudioLDM training code (`16k_64.yaml`, HiFi-GAN's convention): reflect padding of (1024 - 160) / 2 samples on
each side and no centring, so frame i covers samples 160 i to 160 i + 160; a clip has exactly samples / hop frames.
The inference code of the same project pads by 512, a shift of 5 ms; it is not used here.

B clips, S samples, N mel frames, M mel bins, F = 513 frequency bins.
"""

import math

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

from uniform.errors import InputError
from uniform.spec import Spec

WINDOW_SAMPLES = 1024
"""Length of the FFT and of the periodic Hann window."""
MAX_HZ = 8000.0
"""Upper edge of the highest mel filter; half the sample rate where that is less."""
FLOOR = 1e-5
"""Mel magnitudes below it count as silence."""
SILENCE = math.log(FLOOR)
"""Log-mel value of silence, -11.51. Padding is silence, never zero, which is loud."""


class MelFrontEnd:
    """Waveform to log-mel: magnitude spectrum, Slaney mel filters (scale and area norm), natural log.

    Args:
        rate_hz: samples per second.
        mel_bins: mel filters from 0 Hz to `MAX_HZ`.
        hop_samples: samples per mel frame.
    """

    def __init__(self, *, rate_hz: int = 16_000, mel_bins: int = 64, hop_samples: int = 160) -> None:
        self.rate_hz = rate_hz
        self.mel_bins = mel_bins
        self.hop_samples = hop_samples
        self.window = torch.hann_window(WINDOW_SAMPLES, periodic=True)  # (1024,)
        self.filters = mel_filters(rate_hz, mel_bins)  # (M, F)

    @classmethod
    def of(cls, spec: Spec) -> "MelFrontEnd":
        """The front end of a spec's clips."""
        return cls(rate_hz=spec.rate_hz, mel_bins=spec.mel_bins, hop_samples=spec.hop_samples)

    def __call__(self, waveforms: Tensor) -> Tensor:
        """Log-mel of mono waveforms, on their device.

        Args:
            waveforms: float32 (B, S) in [-1, 1]; the hop divides S.
        Returns: float32 (B, S / hop, M), natural log, at least `SILENCE`. Samples that are not finite stay so.
        Raises: InputError for another shape, or for a length that the hop does not divide or that is too short.
        """
        pad = (WINDOW_SAMPLES - self.hop_samples) // 2
        self._check(waveforms, pad)
        padded = F.pad(waveforms.float().unsqueeze(1), (pad, pad), mode="reflect").squeeze(1)
        window = self.window.to(waveforms.device)
        spectrum = torch.stft(
            padded,
            WINDOW_SAMPLES,
            self.hop_samples,
            window=window,
            center=False,
            return_complex=True,
        ).abs()  # (B, F, N)
        # One matrix product per clip, so that the result of a clip does not depend on the batch size.
        filters = self.filters.to(waveforms.device).expand(len(spectrum), -1, -1)
        return torch.bmm(filters, spectrum).clamp(min=FLOOR).log().transpose(1, 2).contiguous()  # (B, N, M)

    def _check(self, waveforms: Tensor, pad: int) -> None:
        if waveforms.dim() != 2:
            raise InputError(
                f"waveforms have shape {tuple(waveforms.shape)}; wanted (clips, samples), mono. Mix down first."
            )
        samples = waveforms.shape[1]
        if samples % self.hop_samples or samples <= pad:
            below = samples - samples % self.hop_samples
            raise InputError(
                f"waveforms have {samples} samples; wanted a multiple of the hop, {self.hop_samples}, above {pad}. "
                f"Cut to {below} or pad with silence to {below + self.hop_samples}."
            )


def mel_filters(rate_hz: int, mel_bins: int) -> Tensor:
    """Triangular mel filters, Slaney scale and Slaney area norm, float32 (M, F)."""
    filters: Tensor = torchaudio.functional.melscale_fbanks(
        n_freqs=WINDOW_SAMPLES // 2 + 1,
        f_min=0.0,
        f_max=min(MAX_HZ, rate_hz / 2),
        n_mels=mel_bins,
        sample_rate=rate_hz,
        norm="slaney",
        mel_scale="slaney",
    )
    return filters.T.contiguous()


def peak_normalise(waveforms: Tensor, peak: float = 0.5) -> Tensor:
    """Waveforms without their mean, scaled so that the loudest sample is `peak`: AudioLDM's training input.

    Loudness is lost; silence stays silence.

    Args:
        waveforms: float (B, S).
        peak: wanted largest absolute sample.
    Source: AudioLDM, `audioldm/audio/tools.py`.
    """
    centred = waveforms - waveforms.mean(dim=-1, keepdim=True)
    return centred / (centred.abs().amax(dim=-1, keepdim=True) + 1e-8) * peak
