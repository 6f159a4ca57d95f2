"""Layouts: folding is exact and aligned in time; a spec that does not fit is refused with the reason."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from uniform.errors import ConfigError
from uniform.model.config import ModelConfig
from uniform.model.layout import AUDIO, CLEAN, VIDEO, GridLayout, TokensLayout
from uniform.model.transformer import make_layout
from uniform.spec import PAPER, TOY, Spec

PAPER_GRID = GridLayout(PAPER.video_latent, PAPER.audio_latent, (2, 2))
TOY_GRID = GridLayout(TOY.video_latent, TOY.audio_latent, (2, 2))


def audio_of(latent: tuple[int, int, int], clips: int = 2) -> torch.Tensor:
    return torch.randn(clips, *latent, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layout", [PAPER_GRID, TOY_GRID], ids=["paper", "toy"])
def test_grid_folds_and_unfolds_without_loss(layout: GridLayout) -> None:
    audio = audio_of(layout.audio_latent)
    task = torch.randn(2, layout.task_cells)

    cells = layout.fold(audio, task)

    assert cells.shape == (
        2,
        layout.video_part.channels,
        layout.frames,
        layout.audio_part.rows,
        layout.audio_part.columns,
    )
    assert torch.equal(layout.unfold(cells), audio)
    assert torch.equal(cells[..., layout.audio_columns :].flatten(1), task)


@settings(max_examples=40, deadline=None)
@given(
    Cv=st.sampled_from([2, 4]),
    k=st.sampled_from([1, 2, 3]),
    T=st.integers(1, 5),
    w=st.integers(1, 6),
    rows=st.sampled_from([4, 8]),
    m=st.sampled_from([1, 2, 3]),
)
def test_grid_is_exact_for_every_spec_that_divides(Cv: int, k: int, T: int, w: int, rows: int, m: int) -> None:
    if (m * rows) % k:
        return
    latent = (Cv * k, T * w, m * rows // k)
    layout = GridLayout((Cv, T, rows, 6), latent, (2, 2))
    audio = audio_of(latent)

    assert layout.audio_columns == m * w
    assert layout.columns % 2 == 0
    assert torch.equal(layout.unfold(layout.fold(audio, torch.zeros(2, layout.task_cells))), audio)


def test_paper_grid_is_38_columns_and_16_by_19_tokens() -> None:
    tokens = PAPER_GRID.video_part.tokens + PAPER_GRID.audio_part.tokens

    assert (PAPER_GRID.audio_columns, PAPER_GRID.task_columns, PAPER_GRID.columns) == (5, 1, 38)
    assert (tokens, tokens * PAPER_GRID.frames) == (16 * 19, 6080)
    assert PAPER_GRID.task_cells == 2560


def test_toy_grid_is_14_columns() -> None:
    assert (TOY_GRID.audio_columns, TOY_GRID.task_columns, TOY_GRID.columns) == (5, 1, 14)


def test_each_latent_frame_holds_exactly_the_audio_of_its_time() -> None:
    Ca, Ta, F = PAPER.audio_latent
    times = torch.arange(Ta, dtype=torch.float32)[None, None, :, None].expand(1, Ca, Ta, F)

    cells = PAPER_GRID.fold(times, None)

    for frame in range(20):
        assert cells[0, :, frame].unique().tolist() == [5 * frame + i for i in range(5)]


def test_one_patch_holds_all_channels_of_a_frequency_at_two_neighbouring_times() -> None:
    Ca, Ta, F = PAPER.audio_latent
    number = torch.arange(Ca * Ta * F, dtype=torch.float64).view(1, Ca, Ta, F)

    patch = PAPER_GRID.fold(number, None)[0, :, 3, 10:12, 0:2].flatten().long()  # frame 3, token row 5, column 0

    channel, time, frequency = patch // (Ta * F), patch // F % Ta, patch % F
    assert (channel.unique().tolist(), frequency.unique().tolist()) == (list(range(8)), [5])
    assert time.unique().tolist() == [15, 16]


def test_unfold_treats_prediction_and_variance_logits_alike() -> None:
    first, second = audio_of(TOY.audio_latent), audio_of(TOY.audio_latent) + 1
    task = torch.zeros(2, TOY_GRID.task_cells)
    both = torch.cat([TOY_GRID.fold(first, task), TOY_GRID.fold(second, task)], dim=1)

    assert torch.equal(TOY_GRID.unfold(both), torch.cat([first, second], dim=1))


def test_a_token_of_audio_and_task_takes_the_time_of_the_audio() -> None:
    audio = PAPER_GRID.levels()[PAPER_GRID.video_part.tokens :]

    assert PAPER_GRID.levels()[: PAPER_GRID.video_part.tokens].unique().tolist() == [VIDEO]
    assert audio.unique().tolist() == [AUDIO]


def test_a_token_of_task_alone_is_always_clean() -> None:
    layout = GridLayout((4, 5, 8, 8), (8, 20, 4), (2, 2))  # 4 audio columns, so the task needs 2 of its own

    levels = layout.levels()[layout.video_part.tokens :].view(4, 3)

    assert layout.task_columns == 2
    assert levels[:, :2].unique().tolist() == [AUDIO]
    assert levels[:, 2].unique().tolist() == [CLEAN]


def test_paper_positions_keep_the_video_columns_and_continue_them() -> None:
    places = PAPER_GRID.positions(512)
    video, audio = places[:256], places[256:]

    assert video[:16].tolist() == [[0, 2 * j] for j in range(16)]
    assert video[-1].tolist() == [30, 30]
    assert audio.view(16, 3, 2)[4].tolist() == [[8, 32], [8, 34], [8, 36]]


@pytest.mark.parametrize(
    ("video", "audio", "what"),
    [
        (
            (4, 20, 33, 32),
            (8, 100, 16),
            r"latent rows are 33, which the patch's rows \(2\) do not divide; choose 32 or 34",
        ),
        ((4, 20, 32, 31), (8, 100, 16), r"latent columns are 31"),
        (
            (4, 18, 32, 32),
            (8, 100, 16),
            r"audio latent times are 100, which the latent frames \(18\) .* choose 90 or 108",
        ),
        ((4, 20, 32, 32), (6, 100, 16), r"audio channels are 6, which the video channels \(4\)"),
        ((4, 20, 40, 40), (8, 100, 16), r"latent rows are 40|frequencies x channels"),
    ],
)
def test_a_grid_that_does_not_fit_names_the_size_and_sizes_that_fit(
    video: tuple[int, int, int, int], audio: tuple[int, int, int], what: str
) -> None:
    with pytest.raises(ConfigError, match=what):
        GridLayout(video, audio, (2, 2))


@pytest.mark.parametrize("spec", [PAPER, TOY, Spec(name="odd", height_px=72, width_px=40, duration_s=3, mel_bins=32)])
def test_tokens_layout_fits_any_size_without_loss(spec: Spec) -> None:
    layout = make_layout(ModelConfig(layout="tokens"), spec.video_latent, spec.audio_latent)
    audio = audio_of(spec.audio_latent)

    assert torch.equal(layout.unfold(layout.fold(audio, None)), audio)
    assert len(layout.levels()) == len(layout.positions(512)) == layout.video_part.tokens + layout.audio_part.tokens + 1


def test_tokens_layout_is_aligned_where_times_do_not_divide() -> None:
    layout = TokensLayout((4, 4, 8, 8), (1, 10, 1), (2, 2), (1, 1))
    times = torch.arange(1.0, 11.0).view(1, 1, 10, 1)  # from 1, so that 0 is a blank

    assert layout.fold(times)[0, 0, :, :, 0].tolist() == [[1, 2, 0], [3, 4, 5], [6, 7, 0], [8, 9, 10]]


def test_paper_tokens_layout_has_297_tokens() -> None:
    layout = TokensLayout(PAPER.video_latent, PAPER.audio_latent, (2, 2), (1, 2))

    assert len(layout.levels()) == 297
