import pytest
import torch
from torch import Tensor

from uniform.codecs.base import VideoCodec, normalise, open_video_codec
from uniform.codecs.block_spline import block_amplitudes, block_means, smooth_line
from uniform.codecs.video_dct import DctVideo
from uniform.errors import ConfigError, InputError
from uniform.spec import PAPER, TOY, Spec, latent_frames


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture(frames: int, size_px: int, seed: int = 0) -> Tensor:
    """Smooth coloured noise that moves, uint8 (T, H, W, 3)."""
    coarse = noise(1, 3, frames // 3 + 2, 6, 6, seed=seed)
    smooth = torch.nn.functional.interpolate(coarse, (frames, size_px, size_px), mode="trilinear")
    return (smooth[0] * 40 + 128).clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0).contiguous()


def psnr_db(a: Tensor, b: Tensor) -> float:
    return float(-10 * ((a.float() - b.float()) / 255).square().mean().log10())


@pytest.mark.parametrize("spec", [PAPER, TOY])
def test_latents_have_the_spec_s_shape(spec: Spec) -> None:
    codec = open_video_codec("dct", spec)

    latents = codec.encode(torch.zeros(1, spec.frames, spec.height_px, spec.width_px, 3, dtype=torch.uint8))

    assert isinstance(codec, VideoCodec)
    assert latents.shape == (1, *spec.video_latent)
    assert latents.dtype == torch.float32


@pytest.mark.parametrize(
    ("frames", "height", "width"), [(68, 64, 64), (1, 8, 8), (16, 32, 32), (17, 24, 40), (18, 72, 56), (5, 8, 16)]
)
def test_every_kept_coefficient_survives_decoding(frames: int, height: int, width: int) -> None:
    codec = DctVideo()
    latent = noise(4, latent_frames(frames), height // 8, width // 8)

    again = codec.analyse(codec.synthesise(latent, frames))

    assert torch.allclose(again, latent, atol=1e-3)


@pytest.mark.parametrize("frames", [2, 3, 19, 36])
def test_short_groups_keep_what_a_short_group_can_hold(frames: int) -> None:
    codec = DctVideo()
    once = codec.analyse(codec.synthesise(noise(4, latent_frames(frames), 4, 4), frames))

    assert torch.allclose(codec.analyse(codec.synthesise(once, frames)), once, atol=1e-3)
    assert codec.decode(once[None], frames).shape == (1, frames, 32, 32, 3)


def test_flat_grey_is_decoded_exactly() -> None:
    codec = DctVideo()
    frames = torch.full((1, 17, 32, 32, 3), 77, dtype=torch.uint8)

    assert torch.equal(codec.decode(codec.encode(frames), 17), frames)


def test_smooth_frames_are_decoded_better_than_their_block_means() -> None:
    frames = picture(34, 64)[..., :1].expand(-1, -1, -1, 3)
    blocks = frames.float().reshape(34, 8, 8, 8, 8, 3).mean((2, 4))
    mosaic = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    codec = DctVideo()

    decoded = codec.decode(codec.encode(frames[None]), 34)[0]

    assert psnr_db(decoded, frames) > psnr_db(mosaic, frames) + 2
    assert psnr_db(decoded, frames) > 30


@pytest.mark.parametrize("flash", [0, 1, 4, 5, 16, 17, 18, 30])
def test_a_flash_stays_in_its_frame(flash: int) -> None:
    frames = torch.full((1, 34, 32, 32, 3), 20, dtype=torch.uint8)
    frames[0, flash, 8:24, 8:24] = 220

    decoded = DctVideo().decode(DctVideo().encode(frames), 34)

    assert decoded.float().mean((0, 2, 3, 4)).argmax() == flash


def test_a_macroblock_keeps_its_colour() -> None:
    frames = torch.full((1, 4, 64, 64, 3), 60, dtype=torch.uint8)
    frames[0, :, 16:48, 16:48] = torch.tensor([180, 70, 90], dtype=torch.uint8)

    decoded = DctVideo().decode(DctVideo().encode(frames), 4).float()

    assert (decoded[0, :, 16:48, 16:48].mean((0, 1, 2)) - torch.tensor([180.0, 70.0, 90.0])).abs().max() < 1


def test_chunks_are_independent() -> None:
    frames = picture(68, 32)
    changed = frames.clone()
    changed[40] = 255 - changed[40]
    codec = DctVideo()

    differs = (codec.encode(frames[None]) != codec.encode(changed[None])).any(-1).any(-1).any(1)[0]

    assert differs.nonzero().flatten().tolist() == [12]  # of the chunk's latents 10 to 14, the group of frames 39 to 42


def test_a_clip_gives_the_same_bytes_alone_in_a_batch_and_in_another_order() -> None:
    clips = torch.stack([picture(17, 32, seed) for seed in range(7)])
    codec = DctVideo()

    together = codec.encode(clips)

    assert all(torch.equal(codec.encode(clips[i : i + 1])[0], together[i]) for i in range(7))
    assert torch.equal(codec.encode(clips.flip(0)).flip(0), together)


def test_normalised_latents_of_video_have_about_unit_size() -> None:
    codec = DctVideo()
    latents = normalise(codec.encode(torch.stack([picture(34, 64, seed) for seed in range(4)])), codec.card)

    assert (latents.std((0, 2, 3, 4)) > 0.2).all()
    assert (latents.std((0, 2, 3, 4)) < 5).all()


def test_the_input_is_not_changed() -> None:
    frames, latents = picture(17, 32)[None], noise(1, 4, 5, 4, 4)
    frames_before, latents_before = frames.clone(), latents.clone()
    codec = DctVideo()

    codec.encode(frames)
    codec.decode(latents, 17)

    assert torch.equal(frames, frames_before)
    assert torch.equal(latents, latents_before)


@pytest.mark.parametrize("shape", [(1, 0, 32, 32, 3), (1, 17, 30, 32, 3), (17, 32, 32, 3), (1, 17, 3, 32, 32)])
def test_frames_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="wanted"):
        DctVideo().encode(torch.zeros(shape, dtype=torch.uint8))


def test_latents_that_do_not_fit_the_frame_count_are_refused() -> None:
    with pytest.raises(InputError, match="68 frames want"):
        DctVideo().decode(torch.zeros(1, 4, 19, 4, 4), 68)


def test_a_spec_with_another_channel_count_is_refused() -> None:
    with pytest.raises(ConfigError, match="video_channels is 16"):
        open_video_codec("dct", Spec(name="wide", video_channels=16))


@pytest.mark.parametrize(("size", "block", "orders"), [(64, 8, 1), (72, 16, 1), (8, 8, 1), (8, 16, 1), (64, 8, 2)])
def test_smooth_lines_keep_the_coefficients_of_their_blocks(size: int, block: int, orders: int) -> None:
    amplitudes = torch.from_numpy(block_amplitudes(size, block, orders))
    smooth = torch.from_numpy(smooth_line(size, block, orders))
    blocks = len(block_means(size, block))

    assert torch.allclose(amplitudes @ smooth, torch.eye(len(amplitudes), dtype=torch.float64), atol=1e-9)
    flat = smooth[:, :blocks].sum(1)  # all means 1, no other order

    assert torch.allclose(flat, torch.ones(size, dtype=torch.float64))
