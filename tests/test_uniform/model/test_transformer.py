"""The network: STDiT3 equals the original, UniForm's additions work, and masked inputs have no influence."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.support.paths import DATA
from tests.support.standin import stand_in_input, stand_in_state
from uniform.errors import ConfigError, InputError
from uniform.model.backbone import FinalLayer
from uniform.model.blocks import modulate
from uniform.model.config import SIZES, ModelConfig
from uniform.model.stdit3 import STDiT3
from uniform.model.transformer import UniForm
from uniform.pair import Pair
from uniform.spec import PAPER, TOY

SMALL = ModelConfig(depth=2, width=144, heads=2, text_width=64, text_tokens=12)
TINY = ModelConfig(depth=2, width=32, heads=2, text_width=8, text_tokens=4)
VIDEO, AUDIO = (4, 3, 4, 4), (8, 6, 4)


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    return load_file(DATA / "stdit3_small.safetensors")


@pytest.fixture(scope="module")
def stdit3() -> STDiT3:
    shapes = json.loads((DATA / "stdit3_small.keys.json").read_text())
    frequencies = 10_000.0 ** (-torch.arange(0, 72, 2) / 72)
    model = STDiT3(SMALL)
    model.load_state_dict(stand_in_state(shapes, {"rope.freqs": frequencies}))
    return model.eval()


def apart(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def tiny(config: ModelConfig = TINY, *, filled: bool = True) -> UniForm:
    """A network whose zero-initialised layers are filled, so that every input reaches the output."""
    model = UniForm(config, VIDEO, AUDIO)
    if filled:
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def inputs(clips: int = 2) -> tuple[Pair, Pair, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    noisy = Pair(torch.randn(clips, *VIDEO, generator=generator), torch.randn(clips, *AUDIO, generator=generator))
    time = Pair(torch.full((clips,), 300.0), torch.full((clips,), 300.0))
    text = torch.randn(clips, 4, 8, generator=generator)
    return noisy, time, torch.arange(clips) % 3, text, torch.ones(clips, 4, dtype=torch.bool)


@torch.no_grad()
def test_stdit3_equals_the_original(stdit3: STDiT3, reference: dict[str, Tensor]) -> None:
    noisy, text = stand_in_input("stdit.x", (2, 4, 5, 8, 8)), stand_in_input("stdit.y", (2, 1, 12, 64))[:, 0]

    out = stdit3(noisy, reference["t"], text, reference["mask"].bool(), fps=torch.tensor([17.0, 17.0]))

    assert apart(out, reference["out"]) < 2e-4


@torch.no_grad()
def test_stdit3_equals_the_original_at_256_pixels(stdit3: STDiT3, reference: dict[str, Tensor]) -> None:
    noisy, text = stand_in_input("stdit.x256", (1, 4, 3, 32, 32)), stand_in_input("stdit.y256", (1, 1, 12, 64))[:, 0]

    out = stdit3(noisy, torch.tensor([500.0]), text)

    assert apart(out[..., ::2, ::2], reference["out256"]) < 2e-4


@torch.no_grad()
def test_stdit3_with_clean_frames_equals_the_original(
    stdit3: STDiT3, reference: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal wherever the original's output is used; equal in its clean frames too if they are normalised twice."""

    def twice(self: FinalLayer, x: Tensor, times: Tensor, level: Tensor) -> Tensor:
        (s, c), (s0, c0) = ((self.scale_shift_table + times[:, i, None])[:, None, None].unbind(-2) for i in (0, 1))
        noised = modulate(x, s, c)
        return self.linear(torch.where(level[..., None] == 1, modulate(noised, s0, c0), noised))

    noisy, text = stand_in_input("stdit.x", (2, 4, 5, 8, 8)), stand_in_input("stdit.y", (2, 1, 12, 64))[:, 0]
    arguments = (noisy, reference["t"], text, reference["mask"].bool(), None, reference["x_mask"])
    used = reference["x_mask"][:, None, :, None, None].expand_as(reference["out_masked"])

    assert apart(stdit3(*arguments)[used], reference["out_masked"][used]) < 2e-4
    monkeypatch.setattr(FinalLayer, "forward", twice)
    assert apart(stdit3(*arguments), reference["out_masked"]) < 2e-4


def test_stdit3_xl2_has_the_973_published_keys_and_shapes() -> None:
    published = json.loads((DATA / "stdit3_xl2.keys.json").read_text())
    with torch.device("meta"):
        model = STDiT3(SIZES["XL/2"])

    assert len(published) == 973
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == published


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (SIZES["XL/2"], 1_207_651_652),
        (replace(SIZES["XL/2"], share="split"), 1_207_710_436),
        (SIZES["3B/2"], 3_182_211_572 + 7_680),
    ],
    ids=["XL/2", "XL/2 split", "3B/2"],
)
def test_published_sizes_have_their_parameters(config: ModelConfig, count: int) -> None:
    with torch.device("meta"):
        model = UniForm(config, PAPER.video_latent, PAPER.audio_latent)

    # The published counts include the 36 frequencies, which are a buffer here.
    assert sum(parameter.numel() for parameter in model.parameters()) + model.rope.freqs.numel() == count


@pytest.mark.parametrize("layout", ["grid", "tokens"])
@pytest.mark.parametrize("learned_variance", [True, False])
@torch.no_grad()
def test_output_is_shaped_like_the_latents(layout: str, learned_variance: bool) -> None:
    model = tiny(replace(TINY, layout=layout, learned_variance=learned_variance))
    noisy, *rest = inputs()

    out = model(noisy, *rest)

    times = 2 if learned_variance else 1
    assert out.video.shape == (2, VIDEO[0] * times, *VIDEO[1:])
    assert out.audio.shape == (2, AUDIO[0] * times, *AUDIO[1:])
    assert (out.video.dtype, out.audio.dtype) == (torch.float32, torch.float32)


@torch.no_grad()
def test_patching_the_parts_equals_patching_the_joined_grid() -> None:
    model = tiny()
    noisy, _, task, *_ = inputs()
    grid = torch.cat([noisy.video, model.layout.fold(noisy.audio, model.task_embedder(task))], dim=4)
    joined = model.x_embedder(grid).unflatten(2, (2, -1))  # (B, T, token rows, token columns, D)

    parts = model._embed(noisy, task) - model.position

    width = model.layout.video_part.grid[1]
    wanted = torch.cat([joined[..., :width, :].flatten(2, 3), joined[..., width:, :].flatten(2, 3)], dim=2)
    assert torch.allclose(parts, wanted, atol=1e-5)


@pytest.mark.parametrize("share", ["shared", "split"])
@torch.no_grad()
def test_audio_changes_the_video_and_video_changes_the_audio(share: str) -> None:
    model = tiny(replace(TINY, share=share))
    noisy, *rest = inputs()

    changed_audio = model(Pair(noisy.video, noisy.audio + 1), *rest)
    changed_video = model(Pair(noisy.video + 1, noisy.audio), *rest)
    out = model(noisy, *rest)

    assert (changed_audio.video - out.video).abs().max() > 1e-3
    assert (changed_video.audio - out.audio).abs().max() > 1e-3


@pytest.mark.parametrize("layout", ["grid", "tokens"])
@torch.no_grad()
def test_with_a_cross_modal_mask_the_video_does_not_change_the_audio(layout: str) -> None:
    model = tiny(replace(TINY, layout=layout, cross_modal_mask=True))
    noisy, *rest = inputs()

    out, other = model(noisy, *rest), model(Pair(noisy.video + 1, noisy.audio), *rest)

    assert torch.allclose(out.audio, other.audio, atol=1e-5)
    assert (out.video - other.video).abs().max() > 1e-3


@torch.no_grad()
def test_each_modality_is_modulated_by_its_own_time() -> None:
    model = tiny(replace(TINY, cross_modal_mask=True))  # so that a time can only act through modulation
    noisy, time, *rest = inputs()

    out = model(noisy, time, *rest)
    clean_audio = model(noisy, Pair(time.video, torch.zeros(2)), *rest)

    assert torch.allclose(out.video, clean_audio.video, atol=1e-5)
    assert (out.audio - clean_audio.audio).abs().max() > 1e-3


@torch.no_grad()
def test_task_text_and_frame_rate_are_read() -> None:
    model = tiny()
    noisy, time, task, text, mask = inputs()
    out = model(noisy, time, task, text, mask)

    others = [
        model(noisy, time, (task + 1) % 3, text, mask),
        model(noisy, time, task, text + 1, mask),
        model(noisy, time, task, text, mask, fps=torch.tensor([30.0, 30.0])),
        model(noisy, time, task, text, mask, drop_text=torch.tensor([True, True])),
    ]

    assert all((other.video - out.video).abs().max() > 1e-3 for other in others)


@torch.no_grad()
def test_padding_of_a_caption_is_not_read() -> None:
    model = tiny()
    noisy, time, task, text, mask = inputs()
    mask = mask & (torch.arange(4) < 2)
    changed = torch.where(mask[..., None], text, text + 9)

    out, other = model(noisy, time, task, text, mask), model(noisy, time, task, changed, mask)

    assert torch.allclose(out.video, other.video, atol=1e-6)


@torch.no_grad()
def test_a_dropped_caption_does_not_change_the_output() -> None:
    model = tiny()
    noisy, time, task, text, mask = inputs()
    drop = torch.tensor([True, True])

    long = model(noisy, time, task, text, mask, drop_text=drop)
    short = model(noisy, time, task, text[:, :1] * 5, mask[:, :1], drop_text=drop)

    assert torch.allclose(long.video, short.video, atol=1e-6)


@torch.no_grad()
def test_a_text_cache_gives_the_same_output_as_the_text() -> None:
    model = tiny()
    noisy, time, task, text, mask = inputs()
    drop = torch.tensor([False, True])

    cache = model.cache_text(text, mask, drop)

    assert torch.equal(model(noisy, time, task, cache).video, model(noisy, time, task, text, mask, None, drop).video)


@torch.no_grad()
def test_bfloat16_autocast_stays_near_float32() -> None:
    model = tiny(replace(TINY, share="split"))
    noisy, *rest = inputs()

    out = model(noisy, *rest)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(noisy, *rest)

    assert rounded.video.dtype == torch.float32
    assert apart(rounded.video, out.video) < 0.05
    assert apart(rounded.audio, out.audio) < 0.05


def test_times_stay_in_float32_under_autocast() -> None:
    model = tiny()
    dtypes = []
    model.t_block.register_forward_hook(lambda module, given, out: dtypes.append(out.dtype))

    with torch.autocast("cpu", torch.bfloat16):
        model(*inputs())

    assert dtypes == [torch.float32]


def test_same_seed_same_network_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    first = UniForm(TINY, VIDEO, AUDIO, seed=3).state_dict()
    second = UniForm(TINY, VIDEO, AUDIO, seed=3).state_dict()
    other = UniForm(TINY, VIDEO, AUDIO, seed=4).state_dict()

    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["task_embedder.weight"], other["task_embedder.weight"])


@torch.no_grad()
def test_fresh_temporal_blocks_are_the_identity_and_fresh_output_is_zero() -> None:
    model = tiny(filled=False)
    noisy, time, task, text, mask = inputs()
    calls: list[tuple[Tensor, Tensor]] = []
    for block in model.temporal_blocks:
        block.register_forward_hook(lambda module, given, out: calls.append((given[0], out)))

    out = model(noisy, time, task, text, mask)

    assert len(calls) == 2
    assert all(torch.equal(before, after) for before, after in calls)
    assert out.video.abs().max() == out.audio.abs().max() == 0


def test_every_parameter_learns() -> None:
    model = tiny()
    out = model(*inputs())

    (out.video.square().sum() + out.audio.square().sum()).backward()

    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert idle == []


def test_latents_of_another_spec_and_text_of_another_width_are_refused() -> None:
    model = tiny()
    noisy, time, task, text, mask = inputs()

    with pytest.raises(InputError, match=r"latents are \(4, 2, 4, 4\) .* made for \(4, 3, 4, 4\)"):
        model(Pair(noisy.video[:, :, :2], noisy.audio), time, task, text, mask)
    with pytest.raises(InputError, match="7 dimensions per token, this model reads 8"):
        model(noisy, time, task, text[..., :7], mask)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"width": 130, "heads": 4}, "a head would have 32.5 dimensions"),
        ({"width": 30, "heads": 3}, "multiple of 4"),
        ({"depth": 0}, "model.depth is 0"),
        ({"patch": (2, 0)}, r"model.patch is \(2, 0\)"),
        ({"audio_patch": (1,)}, "model.audio_patch"),
        ({"fps": 0.0}, "fps 0.0"),
        ({"null_tokens": 400}, "null_tokens is 400"),
        ({"layout": "tokens", "share": "split"}, "separate embedders"),
    ],
)
def test_an_invalid_config_is_refused(changes: dict[str, int], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        ModelConfig(**changes)


def test_every_named_size_fits_the_paper_and_the_toy_spec() -> None:
    assert len(SIZES) >= 5
    for config in SIZES.values():
        for spec in (PAPER, TOY):
            with torch.device("meta"):
                UniForm(config, spec.video_latent, spec.audio_latent)
