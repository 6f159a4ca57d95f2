"""Embedders: exact in float32, under autocast too."""

import torch
import torch.nn.functional as F

from uniform.model.embed import PatchEmbed, ScalarEmbed, drop_captions, position_code, sinusoids, unpatch


def test_patches_equal_the_convolution_they_are_stored_as() -> None:
    torch.manual_seed(0)
    embed, cells = PatchEmbed(4, 12, (2, 2)), torch.randn(2, 4, 3, 6, 8)

    wanted = embed.proj(cells).flatten(3).permute(0, 2, 3, 1)

    assert torch.allclose(embed(cells), wanted, atol=1e-6)


def test_unpatch_writes_channel_fastest_and_cuts_padding() -> None:
    cells = torch.randn(2, 3, 4, 5, 7)
    padded = F.pad(cells, (0, 1, 0, 1))
    patches = padded.reshape(2, 3, 4, 3, 2, 4, 2).permute(0, 2, 3, 5, 4, 6, 1).reshape(2, 4, 12, 12)

    assert torch.equal(unpatch(patches, (2, 2), 5, 7), cells)


def test_neighbouring_times_stay_apart_under_bfloat16() -> None:
    embed = ScalarEmbed(16)
    times = torch.tensor([900.0, 901.0, 902.0])

    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        vectors = embed(times)

    assert vectors.dtype == torch.float32
    assert len(vectors.unique(dim=0)) == 3


def test_sinusoids_are_cosines_then_sines() -> None:
    first = sinusoids(torch.tensor([2.0]), 256)[0]

    assert torch.allclose(first[[0, 128]], torch.tensor([2.0]).cos().new_tensor([-0.41614684, 0.90929743]))
    assert first[127] > 0.99  # period of almost 2 pi 10,000


def test_position_code_is_columns_before_rows_and_sines_before_cosines() -> None:
    code = position_code(torch.tensor([[3.0, 5.0]], dtype=torch.float64), 16)[0]
    wanted = torch.tensor([5.0]).sin(), torch.tensor([5.0]).cos(), torch.tensor([3.0]).sin(), torch.tensor([3.0]).cos()

    assert torch.allclose(code[::4], torch.cat(wanted))


def test_dropped_caption_has_the_null_captions_own_length() -> None:
    text, mask = torch.ones(2, 2, 4), torch.tensor([[True, True], [True, False]])
    null = torch.full((3, 4), 7.0)

    shown, visible = drop_captions(text, mask, torch.tensor([True, False]), null)

    assert shown.shape == (2, 3, 4)
    assert (shown[0] == 7).all()
    assert visible.tolist() == [[True, True, True], [True, False, False]]
    assert torch.equal(shown[1, :2], text[1])
