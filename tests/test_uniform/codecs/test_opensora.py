"""The Open-Sora VAE 1.2 against its original, through the published key layout and the loader that users use."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.paths import DATA
from tests.support.standin import stand_in_input, stand_in_state
from uniform.codecs.base import VideoCodec, normalise, open_video_codec
from uniform.codecs.opensora_vae import OpenSoraVae, VaeConfig
from uniform.codecs.video_opensora import OpenSoraCodec, open_codec
from uniform.errors import ConfigError, InputError, SpecMismatchError
from uniform.spec import PAPER, Spec, latent_frames

SMALL = {
    "micro_frame_size": 17,
    "vae_2d": {"block_out_channels": [32, 32, 64, 64], "layers_per_block": 1},
    "vae_temporal": {"filters": 32, "num_res_blocks": 1},
}
STATISTICS = {
    "shift": torch.tensor([-0.10, 0.34, 0.27, 0.98]).reshape(1, 4, 1, 1, 1),
    "scale": torch.tensor([3.85, 2.32, 2.33, 3.06]).reshape(1, 4, 1, 1, 1),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub folder of the reduced VAE with stand-in weights."""
    folder = tmp_path_factory.mktemp("opensora")
    shapes = json.loads((DATA / "opensora_vae_small.keys.json").read_text())
    save_file(stand_in_state(shapes, STATISTICS), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(SMALL))
    return folder


@pytest.fixture(scope="module")
def codec(folder: Path) -> OpenSoraCodec:
    return open_codec("opensora-v1.2", PAPER, weights=str(folder), device="cpu")


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    return load_file(DATA / "opensora_vae_small.safetensors")


def _video(frames: int) -> Tensor:
    """The reference's input as (1, T, 64, 64, 3) in [-1, 1]."""
    return stand_in_input(f"video{frames}", (1, 3, frames, 64, 64)).clamp(-1, 1).permute(0, 2, 3, 4, 1)


def _clips(count: int, frames: int, size_px: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randint(0, 256, (count, frames, size_px, size_px, 3), generator=generator, dtype=torch.uint8)


def _assert_close(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= 2e-4 * float(wanted.abs().max())


@pytest.mark.parametrize("frames", [1, 4, 17, 34, 40])
def test_latents_and_decoded_frames_equal_the_original(
    codec: OpenSoraCodec, reference: dict[str, Tensor], frames: int
) -> None:
    raw = codec.encode(_video(frames))
    decoded = codec.decode_pixels(raw, frames).permute(0, 4, 1, 2, 3)

    _assert_close(normalise(raw, codec.card), reference[f"latent{frames}"])
    _assert_close(decoded[..., ::4, ::4], reference[f"decoded{frames}"])


def test_each_stage_equals_the_original(codec: OpenSoraCodec, reference: dict[str, Tensor]) -> None:
    spatial = codec.vae.spatial_encode(_video(17)[0]).transpose(0, 1).unsqueeze(0)

    _assert_close(spatial, reference["spatial17"])
    _assert_close(codec.vae.temporal_moments(spatial), reference["moments17"])


def test_published_layout_has_the_published_keys_and_shapes() -> None:
    with torch.device("meta"):
        vae = OpenSoraVae(VaeConfig())
    published = json.loads((DATA / "opensora_vae_full.keys.json").read_text())

    found = {key: list(tensor.shape) for key, tensor in vae.state_dict().items()}

    assert len(found) == 517
    assert found == published


def test_codec_is_a_video_codec_and_its_card_holds_the_checkpoints_shift_and_scale(folder: Path) -> None:
    codec = open_video_codec("opensora-v1.2", PAPER, weights=str(folder))

    assert isinstance(codec, VideoCodec)
    assert codec.card.shift == pytest.approx((-0.10, 0.34, 0.27, 0.98))
    assert codec.card.scale == pytest.approx((3.85, 2.32, 2.33, 3.06))


@pytest.mark.parametrize("frames", [1, 16, 17, 18, 69])
def test_any_frame_count_gives_the_specs_latent_count_and_is_decoded_completely(
    codec: OpenSoraCodec, frames: int
) -> None:
    clips = _clips(2, frames)

    latents = codec.encode(clips)
    decoded = codec.decode(latents, frames)

    assert latents.shape == (2, 4, latent_frames(frames), 2, 2)
    assert latents.dtype == torch.float32
    assert decoded.shape == clips.shape
    assert decoded.dtype == torch.uint8


def test_bytes_do_not_depend_on_batch_neighbours_or_order(codec: OpenSoraCodec) -> None:
    clips = _clips(7, 40, size_px=32)

    together = codec.encode(clips)
    reversed_order = codec.encode(clips.flip(0)).flip(0)
    alone = torch.cat([codec.encode(clip.unsqueeze(0)) for clip in clips])

    assert torch.equal(together, alone)
    assert torch.equal(together, reversed_order)
    assert torch.equal(codec.decode(together, 40)[3:4], codec.decode(together[3:4], 40))


def test_chunks_are_independent(codec: OpenSoraCodec) -> None:
    clips = _clips(1, 68)
    changed = clips.clone()
    changed[:, 40] = 255 - changed[:, 40]

    before, after = codec.encode(clips), codec.encode(changed)

    differs = (before != after).any(dim=4).any(dim=3).any(dim=1)[0].nonzero().flatten().tolist()
    assert differs == [10, 11, 12, 13, 14]


def test_every_whole_second_window_of_ten_seconds_is_an_exact_slice(codec: OpenSoraCodec) -> None:
    clip = _clips(1, 170)

    whole = codec.encode(clip)

    assert whole.shape[2] == 50
    for second in range(7):
        window = codec.encode(clip[:, 17 * second : 17 * (second + 4)])
        assert torch.equal(window, whole[:, :, 5 * second : 5 * second + 20])


def test_the_mean_is_the_latent_and_the_std_is_positive(codec: OpenSoraCodec) -> None:
    clips = _clips(2, 18)

    mean, std = codec.encode_moments(clips)

    assert torch.equal(mean, codec.encode(clips))
    assert std.shape == mean.shape
    assert bool((std > 0).all())


def test_samples_depend_on_seed_and_clip_only(folder: Path, codec: OpenSoraCodec) -> None:
    def sample(clips: Tensor, seed: int) -> Tensor:
        sampler = open_codec("opensora-v1.2", PAPER, weights=str(folder), device="cpu", posterior="sample", seed=seed)
        return sampler.encode(clips)

    clips = _clips(3, 17)

    assert torch.equal(sample(clips, 1)[2:], sample(clips[2:], 1))
    assert not torch.equal(sample(clips, 1), sample(clips, 2))
    assert not torch.equal(sample(clips, 1), codec.encode(clips))


def test_bfloat16_stays_near_float32(folder: Path, codec: OpenSoraCodec) -> None:
    clips = _clips(1, 17, size_px=32)
    rough = open_codec("opensora-v1.2", PAPER, weights=str(folder), device="cpu", dtype="bfloat16")

    exact = codec.encode(clips)
    error = float((rough.encode(clips) - exact).pow(2).mean() / exact.pow(2).mean())

    assert 0 < error < 10 ** (-30 / 10)  # a rounding of 8 bits, 30 dB below the signal
    assert rough.card.fingerprint != codec.card.fingerprint


def test_changed_weights_change_the_fingerprint(folder: Path, codec: OpenSoraCodec, tmp_path: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["temporal_vae.quant_conv.conv.bias"][0] += 1
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(SMALL))

    changed = open_codec("opensora-v1.2", PAPER, weights=str(tmp_path), device="cpu")

    assert changed.card.fingerprint != codec.card.fingerprint


def test_a_file_and_a_pickle_of_tensors_load_as_the_folder_does(
    folder: Path, codec: OpenSoraCodec, tmp_path: Path
) -> None:
    torch.save({"state_dict": load_file(folder / "model.safetensors")}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    clips = _clips(1, 4)

    for weights in (folder / "model.safetensors", tmp_path, tmp_path / "pytorch_model.bin"):
        other = open_codec("opensora-v1.2", PAPER, weights=str(weights), device="cpu")
        assert torch.equal(other.encode(clips), codec.encode(clips))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 0, 16, 16, 3), "none empty"),
        ((1, 17, 20, 16, 3), "20 rows, which 8 does not divide"),
        ((1, 17, 16, 17, 3), "17 columns"),
        ((17, 16, 16, 3), "wanted"),
        ((1, 17, 16, 16, 1), "wanted"),
    ],
)
def test_frames_of_another_shape_are_refused(codec: OpenSoraCodec, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        codec.encode(torch.zeros(shape, dtype=torch.uint8))


def test_a_frame_count_that_was_not_encoded_is_refused(codec: OpenSoraCodec) -> None:
    with pytest.raises(InputError, match="18 frames come from"):
        codec.decode(torch.zeros(1, 4, 5, 2, 2), 18)


def test_a_spec_with_other_chunks_is_refused(folder: Path) -> None:
    other = Spec(name="other", chunk_frames=16)
    with pytest.raises(SpecMismatchError, match="chunks of 17"):
        open_codec("opensora-v1.2", other, weights=str(folder))


@pytest.mark.parametrize("option", [{"dtype": "float16"}, {"device": "abacus"}, {"posterior": "mode"}])
def test_unknown_options_are_refused(folder: Path, option: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        open_codec("opensora-v1.2", PAPER, weights=str(folder), **option)  # type: ignore[arg-type]


def test_decoded_frames_are_uint8(codec: OpenSoraCodec) -> None:
    latents = torch.full((1, 4, 5, 2, 2), 50.0)

    pixels, frames = codec.decode_pixels(latents, 17), codec.decode(latents, 17)

    assert float(pixels.abs().max()) > 1  # what has to be clamped
    expected = ((pixels.clamp(-1, 1) + 1) * 127.5).round()
    assert torch.equal(frames.float(), expected)
    assert math.isfinite(float(pixels.sum()))
