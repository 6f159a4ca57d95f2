"""AudioLDM's VAE and vocoder, small, with stand-in weights in the published folder layout."""

import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from tests.support.paths import DATA
from tests.support.standin import stand_in_state
from uniform.codecs.audio_audioldm import AudioLdmCodec, open_codec
from uniform.codecs.base import AudioCodec, normalise, open_audio_codec
from uniform.errors import ConfigError, InputError, SpecMismatchError, WeightsError
from uniform.spec import PAPER, TOY, Spec

FACTOR = 0.9392935633659363
VAE = {
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [32, 32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 1,
    "latent_channels": 8,
    "scaling_factor": FACTOR,
}
VOCODER = {
    "model_in_dim": 64,
    "sampling_rate": 16_000,
    "upsample_initial_channel": 32,
    "upsample_rates": [5, 4, 2, 2, 2],
    "upsample_kernel_sizes": [16, 16, 8, 4, 4],
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
    "normalize_before": False,
}
LAST = 6_400
"""Samples of a short clip: 10 latent times."""


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def _write(folder: Path) -> None:
    with torch.device("meta"):
        vae, vocoder = AutoencoderKL.from_config(VAE), SpeechT5HifiGan(SpeechT5HifiGanConfig(**VOCODER))
    for name, network, values in (
        ("vae/diffusion_pytorch_model", vae, {"_class_name": "AutoencoderKL", **VAE}),
        ("vocoder/model", vocoder, VOCODER),
    ):
        path = folder / f"{name}.safetensors"
        path.parent.mkdir(parents=True)
        save_file(stand_in_state(_shapes(network)), path)
        (path.parent / "config.json").write_text(json.dumps(values))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audioldm")
    _write(folder)
    return folder


@pytest.fixture(scope="module")
def codec(folder: Path) -> AudioLdmCodec:
    return open_codec("audioldm-s-full-v2", PAPER, weights=str(folder), device="cpu")


def _noise(clips: int, samples: int = LAST) -> Tensor:
    return 0.2 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(samples)).clamp(-4, 4)


def test_a_clip_of_the_paper_is_encoded_to_the_papers_latent_and_decoded(codec: AudioLdmCodec) -> None:
    wave = load_file(DATA / "audioldm_mel.safetensors")["wave"].unsqueeze(0)

    latent = codec.encode(wave)
    decoded = codec.decode(latent, 64_000)

    assert isinstance(codec, AudioCodec)
    assert latent.shape == (1, *PAPER.audio_latent)
    assert (latent.dtype, decoded.dtype) == (torch.float32, torch.float32)
    assert decoded.shape == (1, 64_000)
    assert float(decoded.abs().max()) <= 1


def test_log_mel_of_the_waveform_as_it_is_agrees_with_audioldms_training(folder: Path) -> None:
    reference = load_file(DATA / "audioldm_mel.safetensors")
    plain = open_codec("audioldm-s-full-v2", PAPER, weights=str(folder), device="cpu", peak=None)

    log_mel = plain.log_mel(reference["wave"].unsqueeze(0))

    assert float((log_mel[0].T - reference["log_mel"]).abs().max()) < 1e-4


def test_encode_and_decode_equal_the_original_libraries(codec: AudioLdmCodec, folder: Path) -> None:
    vae = AutoencoderKL.from_config(VAE)
    vae.load_state_dict(load_file(folder / "vae/diffusion_pytorch_model.safetensors"))
    vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig(**VOCODER))
    vocoder.load_state_dict(load_file(folder / "vocoder/model.safetensors"))
    waveforms = _noise(2)

    with torch.no_grad():
        latents = vae.encode(codec.log_mel(waveforms).unsqueeze(1)).latent_dist.mode()
        long = vocoder(vae.decode(latents).sample.squeeze(1))

    assert long.shape == (2, LAST + 32)
    for found, wanted in ((codec.encode(waveforms), latents), (codec.decode(latents, LAST), long[:, :LAST])):
        assert float((found - wanted).abs().max()) <= 2e-4 * float(wanted.abs().max())


def test_normalised_latents_are_scaled_by_the_repositorys_factor(codec: AudioLdmCodec) -> None:
    latents = codec.encode(_noise(1))

    torch.testing.assert_close(normalise(latents, codec.card), latents * FACTOR)
    assert codec.card.settings["scaling_factor"] == FACTOR


def test_the_card_marks_the_weights_as_non_commercial(codec: AudioLdmCodec) -> None:
    assert "non-commercial" in codec.card.licence
    assert "CC-BY-NC-SA-4.0" in codec.card.licence


def test_loudness_is_lost_with_the_peak_and_kept_without_it(folder: Path, codec: AudioLdmCodec) -> None:
    plain = open_codec("audioldm-s-full-v2", PAPER, weights=str(folder), device="cpu", peak=None)
    waveforms = _noise(1)

    assert torch.allclose(codec.log_mel(waveforms), codec.log_mel(0.1 * waveforms), atol=1e-3)
    change = plain.log_mel(0.1 * waveforms) - plain.log_mel(waveforms)
    assert torch.allclose(change, torch.full_like(change, math.log(0.1)), atol=1e-3)
    assert plain.card.fingerprint != codec.card.fingerprint


def test_silence_is_the_log_of_the_floor_and_never_zero(codec: AudioLdmCodec) -> None:
    assert torch.allclose(codec.log_mel(torch.zeros(1, LAST)), torch.full((1, 40, 64), math.log(1e-5)))


def test_bytes_do_not_depend_on_batch_neighbours_or_order(folder: Path) -> None:
    waveforms = _noise(7)
    for clip_batch in (1, 4):
        codec = open_codec("audioldm", PAPER, weights=str(folder), device="cpu", clip_batch=clip_batch)
        together = codec.encode(waveforms)
        alone = torch.cat([codec.encode(wave.unsqueeze(0)) for wave in waveforms])

        assert torch.equal(together, alone)
        assert torch.equal(together, codec.encode(waveforms.flip(0)).flip(0))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_sample_that_is_not_finite_changes_its_own_clip_only(folder: Path, bad: float) -> None:
    codec = open_codec("audioldm", PAPER, weights=str(folder), device="cpu", clip_batch=4)
    waveforms = _noise(3)
    broken = waveforms.clone()
    broken[1, 100] = bad

    latents = codec.encode(broken)

    assert not bool(latents[1].isfinite().any())
    assert torch.equal(latents[[0, 2]], codec.encode(waveforms)[[0, 2]])


def test_the_std_belongs_to_the_mean(codec: AudioLdmCodec) -> None:
    mean, std = codec.encode_moments(_noise(1))

    assert torch.equal(mean, codec.encode(_noise(1)))
    assert std.shape == mean.shape
    assert bool((std > 0).all())


@pytest.mark.parametrize(
    ("waveforms", "message"),
    [
        (torch.zeros(1, 63_999), "63,999 samples; wanted a multiple of 640"),
        (torch.zeros(1, 2, 64_000), "Mix stereo down"),
        (torch.zeros(64_000), "mono"),
        (torch.zeros(1, 0), "wanted float"),
        (torch.zeros(1, 64_000, dtype=torch.int16), "wanted float"),
    ],
)
def test_waveforms_of_another_shape_are_refused(codec: AudioLdmCodec, waveforms: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        codec.encode(waveforms)


@pytest.mark.parametrize(
    ("shape", "samples"), [((1, 8, 10, 16), 6_401), ((1, 8, 10, 16), 0), ((1, 4, 10, 16), 640), ((8, 10, 16), 640)]
)
def test_latents_of_another_shape_are_refused(codec: AudioLdmCodec, shape: tuple[int, ...], samples: int) -> None:
    with pytest.raises(InputError, match="wanted"):
        codec.decode(torch.zeros(shape), samples)


def test_old_names_of_attention_layers_are_read(folder: Path, codec: AudioLdmCodec, tmp_path: Path) -> None:
    _write(tmp_path / "new")
    path = tmp_path / "new/vae/diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(path)
    for new_name, old_name in old.items():
        state = {key.replace(f".{new_name}.", f".{old_name}."): tensor for key, tensor in state.items()}
    path.unlink()
    torch.save(state, path.with_suffix(".bin"))

    renamed = open_codec("audioldm-l-full", PAPER, weights=str(tmp_path / "new"), device="cpu")

    assert any("query" in key for key in state)
    assert torch.equal(renamed.encode(_noise(1)), codec.encode(_noise(1)))


def test_a_folder_without_vocoder_encodes_and_refuses_to_decode(tmp_path: Path) -> None:
    _write(tmp_path / "half")
    for path in (tmp_path / "half/vocoder").iterdir():
        path.unlink()
    codec = open_codec("audioldm", PAPER, weights=str(tmp_path / "half"), device="cpu")

    latents = codec.encode(_noise(1))

    with pytest.raises(WeightsError, match=r"no vocoder/model\.safetensors and no vocoder/pytorch_model\.bin"):
        codec.decode(latents, LAST)


def test_specs_that_the_codec_was_not_trained_on_are_refused(folder: Path) -> None:
    with pytest.raises(SpecMismatchError, match="hop"):
        open_audio_codec("audioldm", Spec(name="fine", hop_samples=80), weights=str(folder))
    toy = open_codec("audioldm", TOY, weights=str(folder), device="cpu")
    with pytest.raises(SpecMismatchError, match="mel bins"):
        toy.decode(torch.zeros(1, 8, 50, 4), 32_000)


def test_a_video_vae_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/config.json").write_text(json.dumps({**VAE, "in_channels": 3, "latent_channels": 4}))
    (tmp_path / "vae/diffusion_pytorch_model.bin").write_bytes(b"")

    with pytest.raises(WeightsError, match="3 channels to 4 at stride 4"):
        open_audio_codec("audioldm", PAPER, weights=str(tmp_path))


def test_a_peak_above_full_scale_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="peak is 2"):
        open_codec("audioldm", PAPER, weights=str(folder), peak=2.0)
