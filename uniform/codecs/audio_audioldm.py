"""The audio codec of the paper: AudioLDM's mel VAE and its HiFi-GAN vocoder, frozen.

    (64000,) samples -> (400, 64) log-mel -> (8, 100, 16) -> (400, 64) log-mel -> (64000,) samples

VAE, scale factor and vocoder come from one repository: they differ from one release of AudioLDM to the next. The
weights are not for commercial use. Latents are kept before the scale factor, which is 1 / the card's scale.

B clips, S samples, t = S / 640 latent times, f = mel bins / 4 latent frequencies.
Source: AudioLDM, "Text-to-Audio Generation with Latent Diffusion Models"; sizes and traps: docs/paper_map.md.
"""

import re
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uniform.codecs.base import CodecCard
from uniform.codecs.catalogue import published
from uniform.codecs.device import in_fixed_batches, pick_device, pick_dtype, precision
from uniform.codecs.hub import Source, open_source
from uniform.codecs.log_mel import MelFrontEnd, peak_normalise
from uniform.codecs.posterior import split_moments
from uniform.codecs.weights import (
    load_strict,
    read_json,
    read_shapes,
    read_state,
    require_layout,
    weights_sha256,
)
from uniform.errors import ConfigError, InputError, SpecMismatchError, WeightsError
from uniform.spec import AUDIO_STRIDE, Spec

CODE_VERSION = 1
PEAK = 0.5
"""Largest absolute sample of the VAE's training waveforms; loudness is lost."""
VAE_FILES = ("vae/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.bin")
VOCODER_FILES = ("vocoder/model.safetensors", "vocoder/pytorch_model.bin")
RATE_HZ, HOP_SAMPLES = 16_000, 160

_GPU_CLIP_BATCH = 16
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class AudioLdmCodec:
    """Waveforms to latents and back. Weights are read at the first use, the vocoder's at the first decode.

    Args:
        vae: diffusers' AutoencoderKL on the meta device.
        vae_path: its weights, already checked against its layout.
        source: the folder that also holds the vocoder.
        front_end: waveform to log-mel.
        peak: waveforms are centred and scaled to it before they are encoded; None takes them as they are.
        clip_batch: clips per batch, always exactly this number.
    """

    def __init__(
        self,
        vae: Any,
        vae_path: Path,
        source: Source,
        card: CodecCard,
        front_end: MelFrontEnd,
        *,
        peak: float | None,
        device: torch.device,
        dtype: torch.dtype,
        clip_batch: int,
    ) -> None:
        self.card = card
        self._vae, self._vae_path, self._source, self._front_end = vae, vae_path, source, front_end
        self._peak, self._device, self._dtype, self._clip_batch = peak, device, dtype, clip_batch
        self._loaded = False
        self._vocoder: Any = None

    @property
    def vae(self) -> Any:
        """The VAE with its weights. Raises WeightsError where they are damaged."""
        if not self._loaded:
            load_strict(self._vae, _modern(read_state(self._vae_path)), f"{self.card.name}: {self._vae_path}")
            self._vae.requires_grad_(False).eval().to(self._device, memory_format=torch.channels_last)
            self._loaded = True
        return self._vae

    @property
    def vocoder(self) -> Any:
        """The vocoder with its weights. Raises WeightsError where they are missing, damaged or of another model."""
        if self._vocoder is None:
            path = self._source.file(*VOCODER_FILES)
            self._vocoder = _build_vocoder(self._source.file("vocoder/config.json"), self._front_end, self.card.name)
            load_strict(self._vocoder, read_state(path), f"{self.card.name}: {path}")
            self._vocoder.requires_grad_(False).eval().to(self._device)
        return self._vocoder

    def log_mel(self, waveforms: Tensor) -> Tensor:
        """The input of the VAE: float32 (B, S) in [-1, 1] -> (B, S / 160, mel bins), natural log.

        The waveform is normalised first if the codec has a peak. Silence is log 1e-5.
        Raises: InputError for another shape or length.
        """
        self._check(waveforms)
        return in_fixed_batches(self._log_mel, waveforms, self._clip_batch)

    def encode(self, waveforms: Tensor) -> Tensor:
        """float32 (B, S) in [-1, 1] -> float32 (B, 8, t, f), the posterior's mean, before the scale factor.

        A clip with a sample that is not finite gets a latent that is not finite; the others do not change.
        Raises: InputError for another shape, or a length that 640 does not divide.
        """
        return self.encode_moments(waveforms)[0]

    def encode_moments(self, waveforms: Tensor) -> tuple[Tensor, Tensor]:
        """As `encode`: mean and std of the posterior, each float32 (B, 8, t, f)."""
        self._check(waveforms)

        def moments(batch: Tensor) -> Tensor:
            log_mel = self._log_mel(batch).unsqueeze(1)  # (B, 1, S / 160, mel bins)
            with precision(self._device, self._dtype):
                hidden = self.vae.encoder(log_mel)
            with precision(self._device, torch.float32):
                quantised: Tensor = self.vae.quant_conv(hidden.float())
            return quantised.contiguous()

        return split_moments(in_fixed_batches(moments, waveforms, self._clip_batch))

    def decode(self, latents: Tensor, num_samples: int) -> Tensor:
        """float32 (B, 8, t, f), before the scale factor -> float32 (B, num_samples) in [-1, 1].

        Raises: InputError for another shape, or for more samples than 640 a latent time.
        """
        longest = latents.shape[2] * AUDIO_STRIDE * HOP_SAMPLES if latents.dim() == 4 else 0
        wanted = (len(self.card.scale), self._front_end.mel_bins // AUDIO_STRIDE)
        if latents.dim() != 4 or (latents.shape[1], latents.shape[3]) != wanted or not 0 < num_samples <= longest:
            raise InputError(
                f"{self.card.name}: {num_samples} samples of latents of shape {tuple(latents.shape)}; wanted "
                f"(clips, {wanted[0]}, time, {wanted[1]}) and 1 to {longest} samples"
            )
        return in_fixed_batches(lambda batch: self._waveforms(batch)[:, :num_samples], latents, self._clip_batch)

    def decode_log_mel(self, latents: Tensor) -> Tensor:
        """float32 (B, 8, t, f), before the scale factor -> log-mel, float32 (B, 4 t, mel bins)."""
        with precision(self._device, torch.float32):
            hidden = self.vae.post_quant_conv(latents.to(self._device, torch.float32))
        with precision(self._device, self._dtype):
            log_mel: Tensor = self.vae.decoder(hidden)
        return log_mel.float().squeeze(1)

    def halve_batches(self) -> bool:
        """Halve the batch after running out of memory; False where it is a single clip already."""
        before, self._clip_batch = self._clip_batch, max(1, self._clip_batch // 2)
        return self._clip_batch < before

    def _waveforms(self, latents: Tensor) -> Tensor:  # (B, 8, t, f) -> (B, 640 t + 32)
        log_mel = self.decode_log_mel(latents)
        with precision(self._device, torch.float32):  # bfloat16 in the vocoder is audible
            waveforms: Tensor = self.vocoder(log_mel)
        return waveforms

    def _log_mel(self, waveforms: Tensor) -> Tensor:
        waveforms = waveforms.to(self._device, torch.float32)
        return self._front_end(waveforms if self._peak is None else peak_normalise(waveforms, self._peak))

    def _check(self, waveforms: Tensor) -> None:
        if waveforms.dim() != 2 or 0 in waveforms.shape or not waveforms.is_floating_point():
            raise InputError(
                f"waveforms have shape {tuple(waveforms.shape)} and type {waveforms.dtype}; wanted float "
                f"(clips, samples), mono. Mix stereo down first."
            )
        samples, block = waveforms.shape[1], AUDIO_STRIDE * HOP_SAMPLES
        if samples % block:
            below = samples - samples % block
            raise InputError(
                f"waveforms have {samples:,} samples; wanted a multiple of {block}. "
                f"Cut to {below:,} or pad with silence to {below + block:,}."
            )


# One interface for all codecs of published weights, so the signatures are alike.
def open_codec(
    name: str,
    spec: Spec,
    *,
    weights: str | None = None,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    peak: float | None = PEAK,
    clip_batch: int | None = None,
) -> AudioLdmCodec:
    """The codec with published weights.

    Args:
        name: "audioldm-s-full-v2" or another of AudioLDM's releases in the catalogue.
        spec: 16 kHz, hop 160; its mel bins are the vocoder's (64).
        weights: a folder with `vae/` and `vocoder/` as in the published repositories, or a hub id; None is the name's.
        revision: of the hub; None is what `uniform weights fetch` recorded.
        device: auto, cpu, cuda, mps.
        dtype: of the VAE: float32 or bfloat16. The vocoder is always float32.
        peak: waveforms are scaled to this peak before encoding, as in training; 0 or None does not scale.
        clip_batch: clips per batch, always exactly this number. None: 1 on a CPU, 16 elsewhere.
    Raises: WeightsError for weights that are missing or of another model; SpecMismatchError; ConfigError.
    """
    peak = peak or None
    if peak is not None and not 0 < peak <= 1:
        raise ConfigError(f"peak is {peak}; wanted above 0 and at most 1, or 0 to take waveforms as they are")
    where, arithmetic = pick_device(device), pick_dtype(dtype)
    if (spec.rate_hz, spec.hop_samples) != (RATE_HZ, HOP_SAMPLES):
        raise SpecMismatchError(
            f"{name}: spec '{spec.name}' has {spec.rate_hz} Hz and a hop of {spec.hop_samples}; the codec was trained "
            f"on {RATE_HZ} Hz and {HOP_SAMPLES}. Choose a spec that agrees."
        )
    source = open_source(name, weights, revision)
    if source.weight_file is not None:
        raise WeightsError(f"{name}: {weights} is a file; give the folder that holds vae/ and vocoder/")
    config_path = source.file("vae/config.json")
    source = source.at_commit_of(config_path)
    vae_path = source.file(*VAE_FILES)
    vae, scaling_factor = _build_vae(config_path, vae_path, spec, name)
    settings = {"scaling_factor": scaling_factor, "peak": peak, "dtype": dtype, "posterior": "mean"}
    card = _card(name, vae_path, settings, spec.audio_channels)
    return AudioLdmCodec(
        vae,
        vae_path,
        source,
        card,
        MelFrontEnd.of(spec),
        peak=peak,
        device=where,
        dtype=arithmetic,
        clip_batch=clip_batch or (1 if where.type == "cpu" else _GPU_CLIP_BATCH),
    )


def needed_files(source: Source) -> list[Path]:
    """Configs and weights of VAE and vocoder; downloaded where missing."""
    config_path = source.file("vae/config.json")
    source = source.at_commit_of(config_path)
    vocoder_config = source.file("vocoder/config.json")
    return [config_path, source.file(*VAE_FILES), vocoder_config, source.file(*VOCODER_FILES)]


def _card(name: str, vae_path: Path, settings: dict[str, Any], channels: int) -> CodecCard:
    return CodecCard(
        name=name,
        code_version=CODE_VERSION,
        settings=settings,
        weights_sha256=weights_sha256(vae_path),
        shift=(0.0,) * channels,
        scale=(1.0 / settings["scaling_factor"],) * channels,
        licence=published(name).terms,
    )


def _build_vae(config_path: Path, vae_path: Path, spec: Spec, name: str) -> tuple[Any, float]:
    from diffusers import AutoencoderKL

    values = read_json(config_path)
    try:
        with torch.device("meta"):
            vae: Any = AutoencoderKL.from_config(values)  # type: ignore[no-untyped-call]
        factor = float(values["scaling_factor"])
        channels, stride = vae.config.latent_channels, 2 ** (len(vae.config.block_out_channels) - 1)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{name}: {config_path} is not an AudioLDM VAE's config ({error}). Fetch it again."
        ) from error
    if (vae.config.in_channels, channels, stride) != (1, spec.audio_channels, AUDIO_STRIDE) or not factor > 0:
        raise WeightsError(
            f"{name}: {config_path}: {vae.config.in_channels} channels to {channels} at stride {stride}, factor "
            f"{factor}; wanted 1 to {spec.audio_channels} at stride {AUDIO_STRIDE}. These are weights of another model."
        )
    layout = {key: tuple(tensor.shape) for key, tensor in vae.state_dict().items()}
    require_layout(_modern(read_shapes(vae_path)), layout, f"{name}: {vae_path}")
    return vae, factor


def _build_vocoder(config_path: Path, front_end: MelFrontEnd, name: str) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    values = read_json(config_path)
    try:
        config = SpeechT5HifiGanConfig.from_dict(values)
        with torch.device("meta"):
            vocoder = SpeechT5HifiGan(config)
        found = (config.model_in_dim, config.sampling_rate, prod(config.upsample_rates))
    except (TypeError, ValueError, RuntimeError, StrictDataclassError) as error:
        raise WeightsError(f"{name}: {config_path} is not a HiFi-GAN's config ({error}). Fetch it again.") from error
    wanted = (front_end.mel_bins, front_end.rate_hz, front_end.hop_samples)
    if found != wanted:
        raise SpecMismatchError(
            f"{name}: the vocoder of {config_path} wants (mel bins, Hz, hop) = {found}, the spec has {wanted}. "
            f"Choose a spec that agrees."
        )
    return vocoder


def _modern(entries: dict[str, Any]) -> dict[str, Any]:
    """Keys under the present names of diffusers: attention layers had other names in the published weights."""

    def rename(key: str) -> str:
        return re.sub(
            r"(attentions\.\d+)\.(query|key|value|proj_attn)\.",
            lambda match: f"{match[1]}.{_OLD_ATTENTION[match[2]]}.",
            key,
        )

    return {rename(key): value for key, value in entries.items()}
