"""Layouts: how the latents of a clip become tokens: fold, unfold, columns, positions, times.

Blocks take (B, T, S, D): B clips, T latent frames, S tokens per frame. A layout cuts a frame into two parts that are
patched separately and joined along S: the video part, and the audio part (in the grid with the task). A patch never
covers both parts, so this equals patching one joined grid; only the order of the tokens inside a frame differs, and
attention does not depend on it.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from uniform.errors import ConfigError
from uniform.spec import VIDEO_STRIDE_PX

VIDEO, AUDIO, CLEAN = 0, 1, 2
"""Time of a token: that of the video, that of the audio, or 0 (the task, which is never noised)."""


@dataclass(frozen=True)
class Part:
    """A block of cells per latent frame, and the patch that cuts it into tokens. Cells are padded to whole patches."""

    channels: int
    rows: int
    columns: int
    patch: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """Token rows and token columns."""
        return -(-self.rows // self.patch[0]), -(-self.columns // self.patch[1])

    @property
    def tokens(self) -> int:
        """Tokens per latent frame."""
        return self.grid[0] * self.grid[1]


class Layout(Protocol):
    """The interface of a layout."""

    @property
    def video_part(self) -> Part:
        """Cells and tokens of the video."""
        ...

    @property
    def audio_part(self) -> Part:
        """Cells and tokens of the audio; in the grid, of the task too."""
        ...

    @property
    def frames(self) -> int:
        """Latent frames T."""
        ...

    @property
    def task_cells(self) -> int:
        """Size of a task embedding that becomes cells of the audio part; 0 where the task is a separate token."""
        ...

    def fold(self, audio: Tensor, task: Tensor | None) -> Tensor:
        """(B, C, time, frequency) and (B, task_cells) -> cells of the audio part (B, channels, T, rows, columns)."""
        ...

    def unfold(self, cells: Tensor) -> Tensor:
        """The inverse, without the task; works for any multiple of the channels, group by group."""
        ...

    def levels(self) -> Tensor:
        """Long (S,): VIDEO, AUDIO or CLEAN for each token of a frame."""
        ...

    def positions(self, input_sq_size: int) -> Tensor:
        """Float64 (S, 2): row and column coordinate of each token, in units of the position code."""
        ...


@dataclass(frozen=True)
class GridLayout:
    """Audio and task joined to the video in the latent grid (paper, 3.2.2): `grid`.

    Audio (Ca, Ta, F) becomes (Cv, T, H, columns), equal to the video in all but the last dimension and aligned in
    time: Ta = T * w audio times go w to a latent frame, and Ca * F numbers per time fill m columns of Cv * H. Of the
    channels, the factor k = Ca / Cv is the fast index beside frequency, so that one patch holds all channels
    of a frequency at neighbouring times. Task columns, one or as many as make the width whole patches, come last.

        paper: (8, 100, 16) -> (4, 20, 32, 5), task (4, 20, 32, 1): 32 + 5 + 1 = 38 columns, 16 x 19 tokens
        toy:   (8, 50, 4)   -> (4, 10, 8, 5),  task (4, 10, 8, 1):   8 + 5 + 1 = 14 columns,  4 x 7 tokens
    """

    video_latent: tuple[int, int, int, int]
    audio_latent: tuple[int, int, int]
    patch: tuple[int, int]

    def __post_init__(self) -> None:
        (Cv, T, H, W), (Ca, Ta, Fa) = self.video_latent, self.audio_latent
        rows, columns = self.patch
        _must_divide("latent rows", H, rows, "the patch's rows")
        _must_divide("latent columns", W, columns, "the patch's columns")
        _must_divide("audio latent times", Ta, T, "the latent frames")
        _must_divide("audio channels", Ca, Cv, "the video channels")
        height = Fa * (Ca // Cv)
        if height % H and H % height:
            _must_divide("audio frequencies x channels per video channel", height, H, "the latent rows")
        if H % height == 0 and height != H:
            _must_divide("audio times per latent frame", Ta // T, H // height, "the times stacked in a column")

    @property
    def frames(self) -> int:
        """Latent frames T."""
        return self.video_latent[1]

    @property
    def audio_columns(self) -> int:
        """Columns that a latent frame's audio fills."""
        (Cv, T, H, _), (Ca, Ta, Fa) = self.video_latent, self.audio_latent
        return (Ca * Ta * Fa) // (Cv * T * H)

    @property
    def task_columns(self) -> int:
        """The smallest number, 1 or more, that makes the width of the audio part a whole number of patches."""
        return self.patch[1] - self.audio_columns % self.patch[1]

    @property
    def task_cells(self) -> int:
        """Size of a task embedding: Cv * T * H * task columns."""
        Cv, T, H, _ = self.video_latent
        return Cv * T * H * self.task_columns

    @property
    def columns(self) -> int:
        """Columns of the joined grid: video, audio, task."""
        return self.video_latent[3] + self.audio_columns + self.task_columns

    @property
    def video_part(self) -> Part:
        """The video's columns."""
        Cv, _, H, W = self.video_latent
        return Part(Cv, H, W, self.patch)

    @property
    def audio_part(self) -> Part:
        """The audio's and the task's columns."""
        Cv, _, H, _ = self.video_latent
        return Part(Cv, H, self.audio_columns + self.task_columns, self.patch)

    def fold(self, audio: Tensor, task: Tensor | None) -> Tensor:
        """(B, Ca, Ta, F) and (B, task_cells) -> (B, Cv, T, H, audio and task columns). Exact; see the class."""
        Cv, T, H, _ = self.video_latent
        k = self.audio_latent[0] // Cv
        cells = torch.unflatten(torch.unflatten(audio, 2, (T, -1)), 1, (Cv, k))  # (B, Cv, k, T, w, F)
        cells = cells.permute(0, 1, 3, 4, 5, 2).flatten(3)  # (B, Cv, T, w * F * k), time slowest
        cells = torch.unflatten(cells, 3, (self.audio_columns, H)).transpose(3, 4)  # (B, Cv, T, H, m * w)
        if task is None:
            return cells
        return torch.cat([cells, torch.unflatten(task, 1, (Cv, T, H, -1)).to(cells.dtype)], dim=4)

    def unfold(self, cells: Tensor) -> Tensor:
        """(B, n * Cv, T, H, audio and task columns) -> (B, n * Ca, Ta, F); n = 2 with variance logits."""
        Cv = self.video_latent[0]
        Ca, Ta, Fa = self.audio_latent
        cells = cells[..., : self.audio_columns].transpose(3, 4).flatten(3)  # (B, n Cv, T, w * F * k)
        cells = torch.unflatten(cells, 3, (Ta // self.frames, Fa, Ca // Cv))  # (B, n Cv, T, w, F, k)
        return cells.permute(0, 1, 5, 2, 3, 4).flatten(1, 2).flatten(2, 3)  # (B, n Ca, Ta, F)

    def levels(self) -> Tensor:
        """Long (S,). A token with any audio column takes the time of the audio, even if it has task cells too."""
        rows, columns = self.audio_part.grid
        first_pure_task = -(-self.audio_columns // self.patch[1])
        levels = torch.full((rows, columns), AUDIO)
        levels[:, first_pure_task:] = CLEAN
        return torch.cat([torch.full((self.video_part.tokens,), VIDEO), levels.flatten()])

    def positions(self, input_sq_size: int) -> Tensor:
        """Float64 (S, 2). Video columns keep the positions they have without audio; the audio part continues them.

        At 256 px and `input_sq_size` 512: rows 0, 2, ..., 30, columns 0, 2, ..., 30 and then 32, 34, 36.
        """
        rows, columns = video_steps(self.video_part, input_sq_size)
        audio = token_mesh(self.audio_part.grid, rows, columns)
        audio[:, 1] += self.video_part.grid[1] * columns
        return torch.cat([token_mesh(self.video_part.grid, rows, columns), audio])


@dataclass(frozen=True)
class TokensLayout:
    """Audio and task joined to the video as tokens, each with its own patch embedder: `tokens`. Fits any size.

    Latent frame l of T holds the audio times floor(l Ta / T) up to floor((l + 1) Ta / T): aligned for any Ta and T.
    Frames with fewer audio times than others have blank cells (zero in the input, dropped from the output).
    """

    video_latent: tuple[int, int, int, int]
    audio_latent: tuple[int, int, int]
    patch: tuple[int, int]
    audio_patch: tuple[int, int]

    @property
    def task_cells(self) -> int:
        """0: the task is a token."""
        return 0

    @property
    def frames(self) -> int:
        """Latent frames T."""
        return self.video_latent[1]

    @property
    def video_part(self) -> Part:
        """The video latent."""
        Cv, _, H, W = self.video_latent
        return Part(Cv, H, W, self.patch)

    @property
    def audio_part(self) -> Part:
        """The audio of one latent frame: rows are times, columns are frequencies."""
        Ca, Ta, Fa = self.audio_latent
        return Part(Ca, -(-Ta // self.frames), Fa, self.audio_patch)

    def _audio_times(self) -> list[int]:
        """The audio time of each (frame, row) of the audio part; Ta, one past the end, where it is blank."""
        Ta, T = self.audio_latent[1], self.frames
        borders = [frame * Ta // T for frame in range(T + 1)]
        return [
            time if time < borders[frame + 1] else Ta
            for frame in range(T)
            for time in range(borders[frame], borders[frame] + self.audio_part.rows)
        ]

    def fold(self, audio: Tensor, task: Tensor | None = None) -> Tensor:
        """(B, Ca, Ta, F) -> (B, Ca, T, times per frame, F)."""
        del task  # a separate token
        padded = F.pad(audio, (0, 0, 0, 1))  # one blank time at the end
        times = torch.tensor(self._audio_times(), device=audio.device)
        return torch.unflatten(padded[:, :, times], 2, (self.frames, -1))

    def unfold(self, cells: Tensor) -> Tensor:
        """(B, n * Ca, T, times per frame, F) -> (B, n * Ca, Ta, F)."""
        filled = [slot for slot, time in enumerate(self._audio_times()) if time < self.audio_latent[1]]
        return cells.flatten(2, 3)[:, :, torch.tensor(filled, device=cells.device)]

    def levels(self) -> Tensor:
        """Long (S,): video tokens, audio tokens, one task token."""
        counts = torch.tensor([self.video_part.tokens, self.audio_part.tokens, 1])
        return torch.repeat_interleave(torch.tensor([VIDEO, AUDIO, CLEAN]), counts)

    def positions(self, input_sq_size: int) -> Tensor:
        """Float64 (S, 2). Audio times continue the video's columns, frequencies lie along the rows; then the task."""
        rows, columns = video_steps(self.video_part, input_sq_size)
        audio = token_mesh(self.audio_part.grid, columns, rows).flip(1)  # (row = frequency, column = time)
        audio[:, 1] += self.video_part.grid[1] * columns
        task = torch.tensor([[0.0, (self.video_part.grid[1] + self.audio_part.grid[0]) * columns]], dtype=torch.float64)
        return torch.cat([token_mesh(self.video_part.grid, rows, columns), audio, task])


def video_steps(video: Part, input_sq_size: int) -> tuple[float, float]:
    """Distance of neighbouring token rows and of neighbouring token columns in the position code.

    Source: Open-Sora 1.2, PositionEmbedding2D: coordinate j of n is j / scale * base / n, with base the rounded root
    of the token count and scale the frame's side in pixels over `input_sq_size`.
    """
    height, width = video.grid
    base = round((height * width) ** 0.5)
    side_px = VIDEO_STRIDE_PX * (video.rows * video.columns) ** 0.5
    unit = base * input_sq_size / side_px
    return unit / height, unit / width


def token_mesh(grid: tuple[int, int], row_step: float, column_step: float) -> Tensor:
    """Float64 (rows * columns, 2): coordinates of a token grid, row by row."""
    rows = torch.arange(grid[0], dtype=torch.float64) * row_step
    columns = torch.arange(grid[1], dtype=torch.float64) * column_step
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)


def _must_divide(what: str, value: int, by: int, by_what: str) -> None:
    if value % by:
        below, above = value - value % by, value - value % by + by
        fitting = f"{below} or {above}" if below else f"{above}"
        raise ConfigError(
            f"layout 'grid' does not fit: {what} are {value}, which {by_what} ({by}) do not divide; choose "
            f"{fitting}. Change the spec, or use layout 'tokens', which fits any size."
        )
