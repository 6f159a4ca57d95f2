import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.support.paths import DATA
from uniform.codecs.audio_dct import DctAudio
from uniform.codecs.base import AudioCodec, normalise, open_audio_codec
from uniform.codecs.log_mel import SILENCE, MelFrontEnd
from uniform.errors import ConfigError, InputError
from uniform.spec import PAPER, TOY, Spec


def reference_wave() -> Tensor:
    return load_file(DATA / "audioldm_mel.safetensors")["wave"][None]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def knocks(at_s: list[float], samples: int = 32_000) -> Tensor:
    """Decaying tones that begin at the given times."""
    time = torch.arange(samples) / 16_000
    wave = torch.zeros(samples)
    for start in at_s:
        since = time - start
        wave += torch.where(since >= 0, 0.4 * torch.exp(-since * 12) * torch.sin(since * 2 * torch.pi * 600), 0.0)
    return wave[None]


@pytest.mark.parametrize("spec", [PAPER, TOY])
def test_latents_have_the_spec_s_shape(spec: Spec) -> None:
    codec = open_audio_codec("dct", spec)

    latents = codec.encode(0.1 * noise(2, spec.samples))

    assert isinstance(codec, AudioCodec)
    assert latents.shape == (2, *spec.audio_latent)
    assert latents.dtype == torch.float32


@pytest.mark.parametrize("bins", [64, 16])
def test_every_kept_coefficient_survives_the_log_mel(bins: int) -> None:
    codec = DctAudio(MelFrontEnd(mel_bins=bins))
    latents = noise(2, 8, 10, bins // 4)

    assert torch.allclose(codec.analyse(codec.synthesise(latents)), latents, atol=1e-5)


def test_silence_is_decoded_as_silence() -> None:
    codec = DctAudio(MelFrontEnd())
    latents = codec.encode(torch.zeros(1, 16_000))

    assert torch.allclose(latents[:, 0], torch.tensor(SILENCE), atol=1e-4)
    assert torch.allclose(latents[:, 1:], torch.tensor(0.0), atol=1e-4)
    assert codec.decode(latents, 16_000).abs().max() < 1e-3


def test_decoded_audio_has_the_log_mel_of_its_latents() -> None:
    codec = DctAudio(MelFrontEnd())
    wave = reference_wave()

    decoded = codec.decode(codec.encode(wave), wave.shape[1])

    assert decoded.shape == wave.shape
    assert (codec.log_mel(decoded) - codec.log_mel(wave)).abs().mean() < 0.45


def test_loudness_is_kept() -> None:
    codec = DctAudio(MelFrontEnd())
    wave = knocks([0.5, 1.2])

    loud, quiet = (codec.decode(codec.encode(wave * gain), 32_000).square().mean().sqrt() for gain in (1.0, 0.1))

    assert loud / quiet == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("bins", [64, 16])
def test_onsets_keep_their_times(bins: int) -> None:
    codec = DctAudio(MelFrontEnd(mel_bins=bins))
    starts = [0.311, 0.9, 1.427]

    decoded = codec.decode(codec.encode(knocks(starts)), 32_000)[0]

    level = decoded.abs().unfold(0, 160, 40).amax(1)  # every 2.5 ms
    for start in starts:
        first = int((start - 0.1) * 400)
        nearby = level[first : first + 80]
        rise = (nearby > nearby.max() / 2).nonzero()[0, 0] + first
        assert abs(float(rise) / 400 + 0.01 - start) < 0.03


def test_a_clip_gives_the_same_bytes_alone_in_a_batch_and_in_another_order() -> None:
    waves = 0.1 * noise(7, 16_000)
    codec = DctAudio(MelFrontEnd())

    together = codec.encode(waves)

    assert all(torch.equal(codec.encode(waves[i : i + 1])[0], together[i]) for i in range(7))
    assert torch.equal(codec.encode(waves.flip(0)).flip(0), together)


def test_decoding_is_deterministic_and_never_louder_than_full_scale() -> None:
    codec = DctAudio(MelFrontEnd())
    latents = noise(2, 8, 25, 16) * 3

    first = codec.decode(latents, 16_000)

    assert torch.equal(first, codec.decode(latents, 16_000))
    assert first.isfinite().all()
    assert first.abs().max() <= 1


def test_normalised_latents_of_audio_have_about_unit_size() -> None:
    codec = DctAudio(MelFrontEnd())
    latents = normalise(
        codec.encode(torch.cat([reference_wave()[:, :32_000], knocks([0.3, 0.8]) + 1e-3 * noise(1, 32_000)])),
        codec.card,
    )

    assert (latents.std((0, 2, 3)) > 0.3).all()
    assert (latents.std((0, 2, 3)) < 4).all()


@pytest.mark.parametrize("shape", [(1, 63_999), (1, 64_160), (64_000,), (1, 2, 64_000)])
def test_odd_lengths_and_stereo_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="wanted"):
        DctAudio(MelFrontEnd()).encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 8, 99, 16), (1, 8, 100, 4), (8, 100, 16), (1, 4, 100, 16)])
def test_latents_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="wanted"):
        DctAudio(MelFrontEnd()).decode(torch.zeros(shape), 64_000)


def test_a_spec_with_another_channel_count_is_refused() -> None:
    with pytest.raises(ConfigError, match="audio_channels is 4"):
        open_audio_codec("dct", Spec(name="thin", audio_channels=4))
