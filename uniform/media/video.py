"""One source picture to one clip picture: upright, square pixels, cropped, scaled, 4:2:0, limited and standard range.

libswscale crops and scales straight to 4:2:0. A source of BT.601 or BT.709 keeps its colour matrix, which the clip's
file then names: no detour through RGB. Every other matrix, and RGB, becomes BT.709; HDR pictures are tone-mapped at the
clip's size. `bitexact` and `accurate_rnd` make the result the same on every processor.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from uniform.errors import MediaError
from uniform.media.encode import matrix_of, picture_from_rgb
from uniform.media.hdr import TRANSFER_HLG, TRANSFER_PQ, tone_map

Fit = Literal["crop", "squash"]
"""crop: shorter side to size, then the centre. squash: the whole picture, at the price of its aspect."""

SCALE_FLAGS = "bicubic+accurate_rnd+full_chroma_int+bitexact"
MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
"""libswscale's names of the colour matrices of ITU-T H.273."""
HDR = (TRANSFER_PQ, TRANSFER_HLG)
RGB_MATRIX = 0
UNSPECIFIED = 2
HD_ROWS = 720
"""An untagged picture of this height or more is taken for BT.709, a smaller one for BT.601, as players do."""
MAX_ASPECT = 1000


@dataclass(frozen=True, kw_only=True)
class Look:
    """All that a transform depends on; a stream may change it from one frame to the next."""

    width: int
    height: int
    pixel_format: str
    matrix: str | None
    """None for RGB."""
    full_range: bool
    transfer: int
    turns: tuple[str, ...]
    """Filters that bring the decoded picture upright."""
    pixel_aspect: Fraction
    """Width of a pixel over its height, as decoded."""


class PictureMaker:
    """Makes clip pictures of one size. Keeps one filter graph for as long as the source keeps its look."""

    def __init__(self, height_px: int, width_px: int, fit: Fit, pixel_aspect: Fraction) -> None:
        self._height_px, self._width_px = height_px, width_px
        self._fit = fit
        self._pixel_aspect = pixel_aspect if 0 < pixel_aspect < MAX_ASPECT else Fraction(1)
        self._target_matrix: str | None = None
        self._look: Look | None = None
        self._graph: av.filter.Graph | None = None

    def make(self, frame: av.VideoFrame) -> av.VideoFrame:
        """A yuv420p limited-range picture of the clip's size; BT.601 where the first frame was, otherwise BT.709."""
        look = look_of(frame, self._pixel_aspect)
        if self._target_matrix is None:
            self._target_matrix = "bt601" if look.matrix == "bt601" and look.transfer not in HDR else "bt709"
        if look != self._look or self._graph is None:
            self._graph, self._look = self._build(look), look
        self._graph.vpush(frame)
        picture = self._graph.vpull()
        if look.transfer in HDR:
            code_values: Any = picture.to_ndarray()
            return picture_from_rgb(tone_map(code_values, look.transfer))
        return picture

    def _build(self, look: Look) -> av.filter.Graph:
        swapped = any(turn.startswith("transpose") for turn in look.turns)
        height, width = (self._width_px, self._height_px) if swapped else (self._height_px, self._width_px)
        source = f"in_range={'full' if look.full_range else 'limited'}"
        if look.matrix is not None:
            source += f":in_color_matrix={look.matrix}"
        hdr = look.transfer in HDR
        target = "out_range=full" if hdr else f"out_range=limited:out_color_matrix={self._target_matrix}"
        steps = [("crop", arguments)] if (arguments := self._crop(look, height, width)) else []
        steps.append(("scale", f"{width}:{height}:flags={SCALE_FLAGS}:{source}:{target}"))
        steps.append(("format", "pix_fmts=rgb48le" if hdr else "pix_fmts=yuv420p"))
        steps += [(name, arguments) for name, _, arguments in (turn.partition("=") for turn in look.turns)]
        return _graph(look, steps)

    def _crop(self, look: Look, height: int, width: int) -> str | None:
        """The centre of the source that has the target's shape, in whole chroma samples; None where it is all."""
        if self._fit == "squash":
            return None
        sub_x, sub_y = _subsampling(look.pixel_format)
        wanted = Fraction(width, height) / look.pixel_aspect  # width over height, in decoded pixels
        if Fraction(look.width, look.height) > wanted:
            kept_width, kept_height = _whole(look.height * wanted, sub_x, look.width), look.height
        else:
            kept_width, kept_height = look.width, _whole(look.width / wanted, sub_y, look.height)
        if (kept_width, kept_height) == (look.width, look.height):
            return None
        left = (look.width - kept_width) // 2 // sub_x * sub_x
        top = (look.height - kept_height) // 2 // sub_y * sub_y
        return f"{kept_width}:{kept_height}:{left}:{top}:exact=1"


def look_of(frame: av.VideoFrame, pixel_aspect: Fraction) -> Look:
    """What `frame` needs. Raises MediaError "unsupported" for a colour matrix that nobody here can undo."""
    name = frame.format.name
    matrix: str | None = None
    if not frame.format.is_rgb and name not in ("pal8", "gray", "monow", "monob"):
        tagged = frame.colorspace
        if tagged in (UNSPECIFIED, RGB_MATRIX):
            matrix = "bt709" if frame.height >= HD_ROWS else "bt601"
        elif tagged in MATRICES:
            matrix = MATRICES[tagged]
        else:
            raise MediaError("unsupported", f"colour matrix {tagged} (ITU-T H.273)")
    full = matrix is None or name.startswith("yuvj") or frame.color_range == ColorRange.JPEG.value
    return Look(
        width=frame.width,
        height=frame.height,
        pixel_format=name,
        matrix=matrix,
        full_range=full,
        transfer=frame.color_trc,
        turns=_turns(frame),
        pixel_aspect=pixel_aspect,
    )


class Deinterlacer:
    """Weaves both fields of interlaced frames into one instant (bwdif); progressive frames pass untouched.

    Nothing is filtered before the first interlaced frame, so progressive video costs nothing.
    """

    def __init__(self) -> None:
        self._graph: av.filter.Graph | None = None
        self._form: tuple[object, ...] = ()

    def idle(self, frame: av.VideoFrame) -> bool:
        """True where `frame` need not pass: it is progressive, as was every frame before it."""
        return self._graph is None and not frame.interlaced_frame

    def push(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """Frames that are ready once `frame` is known, in time order."""
        form = (frame.width, frame.height, frame.format.name, frame.time_base)
        if self._graph is None or form != self._form:
            yield from self.flush()
            look = look_of(frame, Fraction(1))
            self._graph = _graph(look, [("bwdif", "mode=send_frame:deint=interlaced")], frame.time_base)
            self._form = form
        self._graph.vpush(frame)
        yield from _pull(self._graph)

    def flush(self) -> Iterator[av.VideoFrame]:
        """Frames that were still inside."""
        if self._graph is not None:
            self._graph.vpush(None)
            yield from _pull(self._graph)
            self._graph = None


def _graph(look: Look, steps: list[tuple[str, str]], time_base: Fraction | None = None) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.threads = 1
    nodes = [
        graph.add_buffer(
            width=look.width,
            height=look.height,
            format=av.VideoFormat(look.pixel_format),
            time_base=time_base or Fraction(1, 1000),
        )
    ]
    nodes += [graph.add(name, arguments) for name, arguments in steps]
    nodes.append(graph.add("buffersink"))
    graph.link_nodes(*nodes).configure()
    return graph


def _pull(graph: av.filter.Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return


def _turns(frame: av.VideoFrame) -> tuple[str, ...]:
    """Filters that undo the display matrix of a frame: quarter turns and mirrors; slanted pictures stay as they are."""
    side_data: Any = frame.side_data
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return ()
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype="<i4")[:5].tolist()  # x' = ax + cy, y' = bx + dy
    if abs(a) + abs(d) < abs(b) + abs(c):  # the axes change places
        # transpose=dir: 0 turns left and flips, 1 turns right, 2 turns left, 3 turns right and flips
        return (
            f"transpose={ {(True, False): 1, (False, True): 2, (True, True): 0, (False, False): 3}[b > 0, c > 0] }",
        )
    return tuple(name for name, negative in (("hflip", a < 0), ("vflip", d < 0)) if negative)


def _whole(length: Fraction, step: int, limit: int) -> int:
    """`length` rounded to a multiple of `step`, at least one step, at most `limit`."""
    return min(limit, max(step, round(length / step) * step))


def _subsampling(pixel_format: str) -> tuple[int, int]:
    layout = av.VideoFormat(pixel_format, 16, 16)
    return 16 // max(1, layout.chroma_width()), 16 // max(1, layout.chroma_height())


def as_rgb(picture: av.VideoFrame) -> NDArray[np.uint8]:
    """A clip picture as (H, W, 3) RGB, 0..255."""
    converted: Any = picture.reformat(
        format="rgb24",
        src_colorspace=matrix_of(picture),
        src_color_range=ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
    )
    rgb: NDArray[np.uint8] = converted.to_ndarray()
    return rgb
