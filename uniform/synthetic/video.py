"""Render the video of a scene: shaded balls on a floor before a dark wall, anti-aliased, at any size and frame rate.

A light ball on a dark background, wide enough (18 of 64 rows) that detectors can read its middle from the means of
8 x 8 pixels.
"""

from dataclasses import dataclass, replace

import numpy as np

from uniform.spec import Spec
from uniform.synthetic.scene import CLOCK_HZ, COLOURS, FLIGHT_S, GREY, LEAD_S, Motor, Scene

RADIUS = 0.14
"""Radius of a ball, in frame heights, as all lengths here."""
GROUND = 0.88
"""Height at which balls touch the floor, from the top."""
REACH = 0.56
"""How far a ball rises in the longest flight."""
IMPACT_SPEED = 4 * REACH / FLIGHT_S[1]
"""Heights per second. The same in every flight, so that each impact is equally sharp; a flight of T seconds
rises by IMPACT_SPEED * T / 4."""
HUB = 0.47
"""World w3: centre of rotation, from the top; horizontally in the middle."""
ARM = 0.28
"""World w3: from the hub to the middle of the weight."""
_WEIGHT_RADIUS = 0.115
_WALL = ((20, 22, 38), (46, 44, 66))
"""RGB at the top and at the horizon."""
_FLOOR = ((44, 38, 40), (74, 62, 58))
"""RGB at the horizon and at the lower edge."""
_HORIZON = 0.76
_BLOCK_PIXELS = 1 << 18
"""Pixels that are rendered together."""
_LIGHT = np.array([-0.45, -0.6, 0.66])
"""Towards the light: right, down, to the viewer; unit length."""


@dataclass(frozen=True, kw_only=True)
class View:
    """Size, frame rate and time range of a rendered video."""

    height_px: int
    width_px: int
    fps: float
    frames: int
    start_s: float = 0.0
    """Time of the first frame; can be before the clip, down to -LEAD_S."""

    @staticmethod
    def of(spec: Spec) -> "View":
        """The view of a clip of `spec`."""
        return View(height_px=spec.height_px, width_px=spec.width_px, fps=float(spec.fps), frames=spec.frames)

    @property
    def times_s(self) -> np.ndarray:
        """Time of every frame."""
        return self.start_s + np.arange(self.frames) / self.fps


def render_video(scene: Scene, view: View) -> np.ndarray:
    """Render the frames of `scene`, uint8 (T, H, W, 3), RGB. Wider views show more wall at both sides."""
    stage = _stage(view)
    frames = np.empty((view.frames, view.height_px, view.width_px, 3), np.uint8)
    step = max(1, _BLOCK_PIXELS // (view.height_px * view.width_px))
    for first in range(0, view.frames, step):  # in blocks: floating-point frames take four times the memory
        block = replace(view, frames=min(step, view.frames - first), start_s=view.start_s + first / view.fps)
        frames[first : first + block.frames] = _draw_block(scene, block, stage)
    return frames


def _draw_block(scene: Scene, view: View, stage: np.ndarray) -> np.ndarray:
    canvas = np.broadcast_to(stage, (view.frames, *stage.shape)).copy()
    if scene.motor is not None:
        _draw_motor(canvas, view, scene.motor)
    heights = [height_of(np.array(ball.impacts_s), view.times_s) for ball in scene.balls]
    for ball, height in zip(scene.balls, heights, strict=True):
        _draw_shadow(canvas, view, ball.x, height)
    for ball, height in zip(scene.balls, heights, strict=True):
        x = np.full(view.frames, ball.x)
        _draw_ball(canvas, view, x, GROUND - RADIUS - height, RADIUS, COLOURS.get(ball.colour, GREY))
    rendered: np.ndarray = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
    return rendered


def height_of(impacts_s: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """Height of a ball above the floor: a parabola between any two impacts, the same speed at every impact.

    Args:
        impacts_s: ascending, the first before and the last after all of `times_s`.
        times_s: (T,).
    Returns: (T,), in frame heights, 0 at an impact.
    """
    flight = np.clip(np.searchsorted(impacts_s, times_s, side="right") - 1, 0, len(impacts_s) - 2)
    begin, end = impacts_s[flight], impacts_s[flight + 1]
    height: np.ndarray = np.maximum(IMPACT_SPEED * (times_s - begin) * (end - times_s) / (end - begin), 0.0)
    return height


def _stage(view: View) -> np.ndarray:
    """The empty scene, float32 (H, W, 3): it varies by row, and slightly from left to right."""
    down = _rows(view)[:, None]
    wall = _blend(_WALL, down / _HORIZON)
    floor = _blend(_FLOOR, (down - _HORIZON) / (1 - _HORIZON))
    edge = np.clip(0.5 + (down - _HORIZON) * view.height_px, 0, 1)
    rows = wall + (floor - wall) * edge
    light = 1.04 - 0.3 * np.minimum(np.abs(_columns(view) + 0.08), 0.6) ** 2
    stage: np.ndarray = (rows[:, None, :] * light[None, :, None]).astype(np.float32)
    return stage


def _draw_shadow(canvas: np.ndarray, view: View, x: float, height: np.ndarray) -> None:
    """A soft shadow on the floor: small and dark at an impact, wide and faint when the ball is high."""
    lift = (height / REACH).astype(np.float32)[:, None, None]
    top, bottom = _span(view.height_px, GROUND - 0.13, GROUND + 0.13)
    down = (_rows(view)[top:bottom] - GROUND).astype(np.float32)[None, :, None]
    left, right = _span(view.width_px, *(_share(view, x + side * 0.36) for side in (-1, 1)))
    across = (_columns(view)[left:right] - x).astype(np.float32)[None, None, :]
    squared = (across / (0.13 + 0.09 * lift)) ** 2 + (down / (0.035 + 0.02 * lift)) ** 2
    shade = 1.0 - (0.62 - 0.4 * lift) * np.exp(-squared)
    canvas[:, top:bottom, left:right] *= shade[..., None]


def _draw_ball(
    canvas: np.ndarray, view: View, x: np.ndarray, y: np.ndarray, radius: float, surface: tuple[int, int, int]
) -> None:
    """A lit sphere with its middle at x (T,) from the middle and y (T,) from the top."""
    margin = radius + 1.5 / view.height_px
    left, right = _span(view.width_px, _share(view, x.min() - margin), _share(view, x.max() + margin))
    top, bottom = _span(view.height_px, y.min() - margin, y.max() + margin)
    size = np.float32(1.0 / radius)
    across = (_columns(view)[None, left:right] - x[:, None]).astype(np.float32)[:, None, :] * size
    down = (_rows(view)[None, top:bottom] - y[:, None]).astype(np.float32)[:, :, None] * size
    squared = across**2 + down**2
    cover = np.clip(0.5 + (1.0 - np.sqrt(squared)) * np.float32(radius * view.height_px), 0.0, 1.0)
    frames, rows, columns = np.nonzero(cover)
    spot = squared[frames, rows, columns]
    facing = np.sqrt(np.maximum(1.0 - spot, 0.0)) * np.float32(_LIGHT[2])
    facing += across[frames, 0, columns] * np.float32(_LIGHT[0]) + down[frames, rows, 0] * np.float32(_LIGHT[1])
    lit = 0.62 + 0.42 * np.maximum(facing, 0.0)
    gloss = 90.0 * np.maximum(facing, 0.0) ** 24
    colour = lit[:, None] * np.array(surface, np.float32) + gloss[:, None]
    alpha = cover[frames, rows, columns, None]
    inside = canvas[:, top:bottom, left:right]
    inside[frames, rows, columns] += alpha * (colour - inside[frames, rows, columns])


def _draw_motor(canvas: np.ndarray, view: View, motor: Motor) -> None:
    """An arm that turns about the hub with a weight at its end."""
    clock_s = np.arange(len(motor.angle)) / CLOCK_HZ - LEAD_S
    turned = 2 * np.pi * np.interp(view.times_s, clock_s, motor.angle)
    x, y = ARM * np.cos(turned), HUB + ARM * np.sin(turned)
    across = _columns(view).astype(np.float32)[None, None, :]
    down = (_rows(view) - HUB).astype(np.float32)[None, :, None]
    cosine, sine = (value.astype(np.float32)[:, None, None] for value in (np.cos(turned), np.sin(turned)))
    along = np.clip(across * cosine + down * sine, 0.0, ARM)
    distance = np.hypot(across - along * cosine, down - along * sine)
    cover = np.clip(0.5 + (0.018 - distance) * view.height_px, 0.0, 1.0)[..., None]
    canvas += cover * (np.array([96, 98, 108], np.float32) - canvas)
    _draw_ball(canvas, view, np.zeros(view.frames), np.full(view.frames, HUB), 0.05, (120, 122, 132))
    _draw_ball(canvas, view, x, y, _WEIGHT_RADIUS, COLOURS[motor.colour])


def _rows(view: View) -> np.ndarray:
    return (np.arange(view.height_px) + 0.5) / view.height_px


def _columns(view: View) -> np.ndarray:
    return (np.arange(view.width_px) + 0.5 - view.width_px / 2) / view.height_px


def _share(view: View, x: float) -> float:
    """x, in heights from the middle, as a share of the width from the left."""
    return 0.5 + x * view.height_px / view.width_px


def _span(size_px: int, low: float, high: float) -> tuple[int, int]:
    """Pixels that cover the shares low..high of an axis."""
    first, last = max(0, int(np.floor(low * size_px))), min(size_px, int(np.ceil(high * size_px)))
    return first, max(first, last)


def _blend(pair: tuple[tuple[int, int, int], tuple[int, int, int]], share: np.ndarray) -> np.ndarray:
    first, second = (np.array(colour, np.float64) for colour in pair)
    result: np.ndarray = first + (second - first) * np.clip(share, 0, 1)
    return result
