"""Normalise source frames: upright, square pixels, cropped, scaled, 4:2:0, limited and standard range.

libswscale crops and scales directly to 4:2:0. A source of BT.601 or BT.709 keeps its colour matrix, which the clip's
file names, without conversion to RGB. Every other matrix, and RGB, becomes BT.709; HDR frames are tone-mapped at the
clip's size. `bitexact` and `accurate_rnd` give the same result on every processor.
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
from uniform.media.encode import frame_from_rgb, matrix_of
from uniform.media.hdr import TRANSFER_HLG, TRANSFER_PQ, tone_map

Fit = Literal["crop", "squash"]
"""crop: scale the shorter side, then cut the centre. squash: keep the whole frame, change its aspect ratio."""

SCALE_FLAGS = "bicubic+accurate_rnd+full_chroma_int+bitexact"
MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
"""libswscale's names of the colour matrices of ITU-T H.273."""
HDR = (TRANSFER_PQ, TRANSFER_HLG)
RGB_MATRIX = 0
UNSPECIFIED = 2
HD_ROWS = 720
"""Untagged frames of this height or more are read as BT.709, smaller ones as BT.601, as in players."""
MAX_ASPECT = 1000


@dataclass(frozen=True, kw_only=True)
class FrameProperties:
    """Properties that the filter graph depends on; a stream can change them between frames."""

    width: int
    height: int
    pixel_format: str
    matrix: str | None
    """None for RGB."""
    full_range: bool
    transfer: int
    turns: tuple[str, ...]
    """Filters that turn the decoded frame upright."""
    pixel_aspect: Fraction
    """Width of a pixel over its height, as decoded."""


class FrameNormaliser:
    """Normalises frames to one size; reuses the filter graph while the properties of the source do not change."""

    def __init__(self, height_px: int, width_px: int, fit: Fit, pixel_aspect: Fraction) -> None:
        self._height_px, self._width_px = height_px, width_px
        self._fit = fit
        self._pixel_aspect = pixel_aspect if 0 < pixel_aspect < MAX_ASPECT else Fraction(1)
        self._target_matrix: str | None = None
        self._properties: FrameProperties | None = None
        self._graph: av.filter.Graph | None = None

    def normalise(self, frame: av.VideoFrame) -> av.VideoFrame:
        """A yuv420p limited-range frame of the clip's size; BT.601 where the first frame was, otherwise BT.709."""
        properties = properties_of(frame, self._pixel_aspect)
        if self._target_matrix is None:
            self._target_matrix = (
                "bt601" if properties.matrix == "bt601" and properties.transfer not in HDR else "bt709"
            )
        if properties != self._properties or self._graph is None:
            self._graph, self._properties = self._build(properties), properties
        self._graph.vpush(frame)
        normalised = self._graph.vpull()
        if properties.transfer in HDR:
            code_values: Any = normalised.to_ndarray()
            return frame_from_rgb(tone_map(code_values, properties.transfer))
        return normalised

    def _build(self, properties: FrameProperties) -> av.filter.Graph:
        swapped = any(turn.startswith("transpose") for turn in properties.turns)
        height, width = (self._width_px, self._height_px) if swapped else (self._height_px, self._width_px)
        source = f"in_range={'full' if properties.full_range else 'limited'}"
        if properties.matrix is not None:
            source += f":in_color_matrix={properties.matrix}"
        hdr = properties.transfer in HDR
        target = "out_range=full" if hdr else f"out_range=limited:out_color_matrix={self._target_matrix}"
        steps = [("crop", arguments)] if (arguments := self._crop(properties, height, width)) else []
        steps.append(("scale", f"{width}:{height}:flags={SCALE_FLAGS}:{source}:{target}"))
        steps.append(("format", "pix_fmts=rgb48le" if hdr else "pix_fmts=yuv420p"))
        steps += [(name, arguments) for name, _, arguments in (turn.partition("=") for turn in properties.turns)]
        return _graph(properties, steps)

    def _crop(self, properties: FrameProperties, height: int, width: int) -> str | None:
        """Crop of the source's centre with the target's shape, in whole chroma samples; None where nothing is cut."""
        if self._fit == "squash":
            return None
        sub_x, sub_y = _subsampling(properties.pixel_format)
        wanted = Fraction(width, height) / properties.pixel_aspect  # width over height, in decoded pixels
        if Fraction(properties.width, properties.height) > wanted:
            kept_width, kept_height = _whole(properties.height * wanted, sub_x, properties.width), properties.height
        else:
            kept_width, kept_height = properties.width, _whole(properties.width / wanted, sub_y, properties.height)
        if (kept_width, kept_height) == (properties.width, properties.height):
            return None
        left = (properties.width - kept_width) // 2 // sub_x * sub_x
        top = (properties.height - kept_height) // 2 // sub_y * sub_y
        return f"{kept_width}:{kept_height}:{left}:{top}:exact=1"


def properties_of(frame: av.VideoFrame, pixel_aspect: Fraction) -> FrameProperties:
    """Read the properties of `frame`. Raises MediaError "unsupported" for an unknown colour matrix."""
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
    return FrameProperties(
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
    """Deinterlaces frames (bwdif); progressive frames pass unchanged.

    Filtering starts at the first interlaced frame, so progressive video costs nothing.
    """

    def __init__(self) -> None:
        self._graph: av.filter.Graph | None = None
        self._form: tuple[object, ...] = ()

    def idle(self, frame: av.VideoFrame) -> bool:
        """True where `frame` needs no filter: it and all frames before it are progressive."""
        return self._graph is None and not frame.interlaced_frame

    def push(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """Add `frame`; yield the frames that are ready, in time order."""
        form = (frame.width, frame.height, frame.format.name, frame.time_base)
        if self._graph is None or form != self._form:
            yield from self.flush()
            properties = properties_of(frame, Fraction(1))
            self._graph = _graph(properties, [("bwdif", "mode=send_frame:deint=interlaced")], frame.time_base)
            self._form = form
        self._graph.vpush(frame)
        yield from _pull(self._graph)

    def flush(self) -> Iterator[av.VideoFrame]:
        """Yield the remaining frames."""
        if self._graph is not None:
            self._graph.vpush(None)
            yield from _pull(self._graph)
            self._graph = None


def _graph(
    properties: FrameProperties, steps: list[tuple[str, str]], time_base: Fraction | None = None
) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.threads = 1
    nodes = [
        graph.add_buffer(
            width=properties.width,
            height=properties.height,
            format=av.VideoFormat(properties.pixel_format),
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
    """Filters that undo the display matrix of a frame: quarter turns and mirrors; other angles are not undone."""
    side_data: Any = frame.side_data
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return ()
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype="<i4")[:5].tolist()  # x' = ax + cy, y' = bx + dy
    if abs(a) + abs(d) < abs(b) + abs(c):  # the axes are swapped
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


def as_rgb(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """A clip's frame as (H, W, 3) RGB, 0..255."""
    converted: Any = frame.reformat(
        format="rgb24",
        src_colorspace=matrix_of(frame),
        src_color_range=ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
    )
    rgb: NDArray[np.uint8] = converted.to_ndarray()
    return rgb
