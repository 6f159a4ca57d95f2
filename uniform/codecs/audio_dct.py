"""An audio codec without weights: 8 DCT coefficients of each 4 x 4 block of the log-mel, in AudioLDM's geometry.

A latent pixel covers 4 mel frames (40 ms) by 4 mel bins. The strongest coefficients are kept: all four orders along
frequency, which hold the pitch, and the first orders along time, which hold the onset; dropping the others costs 0.07
nepers on natural clips. Loudness is kept: the waveform is not normalised. Decoding is linear up to the log-mel,
`analyse(synthesise(z)) == z`, and goes on to a waveform by Griffin-Lim.

N mel frames, M mel bins, n = N / 4, m = M / 4.
"""

import torch
from torch import Tensor

from uniform.codecs.base import CodecCard
from uniform.codecs.block_spline import dct_functions
from uniform.codecs.device import pick_device
from uniform.codecs.griffin_lim import waveform_from_log_mel
from uniform.codecs.log_mel import MelFrontEnd
from uniform.errors import ConfigError, InputError
from uniform.spec import AUDIO_STRIDE, Spec

KEPT = ((0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (2, 0))
"""(order along time, order along frequency) of each channel."""

# Per channel: means of the means and geometric means of the stds of two materials, the audio of 27 natural clips of
# 4 s with 64 mel bins and synthetic-world clips with 16 mel bins (96 clips of w1, w2, w3).
SHIFT = (-6.7, 0.3, 0.1, -0.1, 0.0, 0.0, 0.0, 0.0)
SCALE = (2.65, 0.68, 0.39, 0.28, 0.31, 0.11, 0.08, 0.105)


def open_codec(name: str, spec: Spec, device: str = "cpu", iterations: int = 32) -> "DctAudio":
    """The codec for clips of `spec`. Raises ConfigError where the spec does not have eight latent channels."""
    if spec.audio_channels != len(KEPT):
        raise ConfigError(
            f"spec '{spec.name}': audio_channels is {spec.audio_channels}; the codec '{name}' makes {len(KEPT)}"
        )
    return DctAudio(MelFrontEnd.of(spec), name=name, device=device, iterations=iterations)


class DctAudio:
    """Waveforms to DCT coefficients of their log-mel and back; the length is a multiple of 4 hops."""

    def __init__(self, front_end: MelFrontEnd, *, name: str = "dct", device: str = "cpu", iterations: int = 32) -> None:
        self.front_end = front_end
        self.device = pick_device(device)
        self.iterations = iterations
        self.card = CodecCard(
            name=name,
            code_version=1,
            settings={
                "rate_hz": front_end.rate_hz,
                "mel_bins": front_end.mel_bins,
                "hop_samples": front_end.hop_samples,
                "kept": KEPT,
            },
            weights_sha256=None,
            shift=SHIFT,
            scale=SCALE,
        )
        functions = torch.from_numpy(dct_functions(AUDIO_STRIDE, AUDIO_STRIDE)).float()  # (order, place)
        self._functions = torch.stack(
            [torch.outer(functions[time], functions[frequency]) for time, frequency in KEPT]
        ).to(self.device)  # (8, 4, 4)

    def log_mel(self, waveforms: Tensor) -> Tensor:
        """float32 (B, S) in [-1, 1] -> (B, N, M), natural log. Raises InputError as `MelFrontEnd` does."""
        return self.front_end(waveforms.to(self.device))

    def encode(self, waveforms: Tensor) -> Tensor:
        """float32 (B, S) in [-1, 1] -> float32 (B, 8, n, m), raw. Raises InputError where 4 hops do not divide S."""
        samples, block = waveforms.shape[-1], AUDIO_STRIDE * self.front_end.hop_samples
        if samples % block:
            below = samples - samples % block
            raise InputError(
                f"waveforms have {samples} samples; wanted a multiple of {block}. "
                f"Cut to {below} or pad with silence to {below + block}."
            )
        return self.analyse(self.log_mel(waveforms))

    def decode(self, latents: Tensor, num_samples: int) -> Tensor:
        """float32 (B, 8, n, m), raw -> float32 (B, num_samples) in [-1, 1]. Raises InputError for another shape."""
        longest = latents.shape[2] * AUDIO_STRIDE * self.front_end.hop_samples if latents.dim() == 4 else 0
        bins = self.front_end.mel_bins // AUDIO_STRIDE
        if latents.dim() != 4 or latents.shape[1::2] != (len(KEPT), bins) or num_samples > longest:
            raise InputError(
                f"latents have shape {tuple(latents.shape)}; wanted (clips, {len(KEPT)}, time, {bins}) "
                f"for {num_samples} samples or more"
            )
        log_mels = self.synthesise(latents.to(self.device, torch.float32))
        waves = [waveform_from_log_mel(log_mel, self.front_end, iterations=self.iterations) for log_mel in log_mels]
        return torch.stack(waves)[:, :num_samples]

    def analyse(self, log_mel: Tensor) -> Tensor:
        """(B, N, M) -> (B, 8, n, m): the kept coefficients, as amplitudes of functions with mean square 1."""
        batch, frames, bins = log_mel.shape
        blocks = log_mel.reshape(batch, frames // AUDIO_STRIDE, AUDIO_STRIDE, bins // AUDIO_STRIDE, AUDIO_STRIDE)
        # Separate sums of products, not a matrix product, so that they do not depend on the batch size.
        kept = [(blocks * function[:, None, :]).mean((2, 4)) for function in self._functions]
        return torch.stack(kept, dim=1)

    def synthesise(self, latents: Tensor) -> Tensor:
        """(B, 8, n, m) -> (B, N, M): the log-mel of these coefficients, not clamped at silence."""
        log_mel = torch.einsum("bcnm,cij->bnimj", latents, self._functions)
        return log_mel.flatten(3, 4).flatten(1, 2)
