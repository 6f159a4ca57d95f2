"""Find a bright ball in a video, when it touches the floor, and what colour it has. No learning.

The ball is what is brighter than its row's background. Its middle is a brightness-weighted mean, which survives a
codec that keeps little more than the means of 8 x 8 pixels. An impact is a sharp lowest point of the middle's path;
its time is where the lines of the fall and of the rise cross, so it is finer than a frame.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Side = Literal["left", "right", "whole"]
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_BACKGROUND_PERCENTILE = 25
_BACKGROUND_STRIDE = 3
"""The background is read off every third frame."""
_NOISE_SHARE = 0.15
"""Differences below this share of the ball's own brightness are taken for background."""


@dataclass(frozen=True, kw_only=True)
class VideoEventRule:
    """What counts as an impact. Lengths are in picture heights."""

    least_prominence: float = 0.06
    """How far the path must rise on both sides."""
    prominence_within_s: float = 0.3
    """How soon it must do so."""
    least_depth: float = 0.5
    """How far down, from the top, the lowest point must be."""
    refractory_s: float = 0.15
    """No two events are nearer; the lower one stays."""
    least_contrast: float = 12.0
    """Brightness over the background, of 255, under which there is no ball."""


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What was seen of one ball."""

    x: np.ndarray
    """float64 (T,), middle from the left, in picture heights."""
    y: np.ndarray
    """float64 (T,), middle from the top, in picture heights."""
    colour: np.ndarray
    """float64 (3,), mean difference of the ball from its background, RGB, of 255."""
    contrast: float
    """Brightness over the background, of 255."""


def watch(frames: np.ndarray, side: Side = "whole") -> Sight:
    """Follow the brightest thing of a video.

    Args:
        frames: uint8 (T, H, W, 3), RGB.
        side: look at the left or right half only.
    """
    width = frames.shape[2]
    columns = {"left": slice(0, width // 2), "right": slice(width // 2, width), "whole": slice(0, width)}[side]
    part = frames[:, :, columns].astype(np.float32)
    light = part @ _LUMA  # (T, H, W')
    ground = np.percentile(light[::_BACKGROUND_STRIDE], _BACKGROUND_PERCENTILE, axis=(0, 2))
    excess = np.maximum(light - ground[:, None].astype(np.float32), 0.0)
    contrast = float(np.percentile(excess, 97))
    weight = np.maximum(excess - _NOISE_SHARE * contrast, 0.0)
    height = frames.shape[1]
    rows = (np.arange(height) + 0.5) / height
    across = (np.arange(columns.start, columns.stop) + 0.5) / height
    total = weight.sum(axis=(1, 2), dtype=np.float64)
    safe = np.maximum(total, 1e-9)
    y = (weight.sum(axis=2, dtype=np.float64) @ rows) / safe
    x = (weight.sum(axis=1, dtype=np.float64) @ across) / safe
    whole = max(float(total.sum()), 1e-9)
    back = np.percentile(part[::_BACKGROUND_STRIDE], _BACKGROUND_PERCENTILE, axis=(0, 2))  # (H, 3)
    colour = (np.einsum("thw,thwc->c", weight, part) - np.einsum("thw,hc->c", weight, back)) / whole
    return Sight(x=x, y=y, colour=colour.astype(np.float64), contrast=contrast)


def video_events(sight: Sight, fps: float, rule: VideoEventRule | None = None) -> np.ndarray:
    """Times at which a ball touches the floor.

    Args:
        sight: its path.
        fps: frames per second.
        rule: what counts; None takes the defaults.
    Returns: float64 (N,), seconds, ascending.
    """
    rule = rule or VideoEventRule()
    path = sight.y
    if sight.contrast < rule.least_contrast:
        return np.empty(0)
    reach = max(1, round(rule.prominence_within_s * fps))
    found: list[tuple[float, float]] = []  # (depth, time)
    for index in range(1, len(path) - 1):
        if not (path[index - 1] < path[index] >= path[index + 1]) or path[index] < rule.least_depth:
            continue
        before = path[index] - path[max(0, index - reach) : index].min()
        after = path[index] - path[index + 1 : index + 1 + reach].min()
        if min(before, after) >= rule.least_prominence:
            found.append((float(path[index]), (index + _crossing(path, index)) / fps))
    kept: list[float] = []
    for _, time in sorted(found, reverse=True):
        if all(abs(time - other) >= rule.refractory_s for other in kept):
            kept.append(time)
    return np.array(sorted(kept))


def nearest_colour(sight: Sight, colours: Mapping[str, tuple[int, int, int]]) -> str:
    """The class whose hue is nearest; brightness does not count. "grey" where there is hardly any hue."""
    seen = _hue(sight.colour)
    if np.hypot(*seen) < 0.18 * max(float(sight.colour @ _LUMA), 1.0):
        return "grey"
    angle = np.arctan2(seen[1], seen[0])

    def distance(name: str) -> float:
        hue = _hue(np.array(colours[name], np.float64))
        return abs(float(np.angle(np.exp(1j * (angle - np.arctan2(hue[1], hue[0]))))))

    return min(colours, key=distance)


def turning_speed(sight: Sight, fps: float, hub: tuple[float, float]) -> np.ndarray:
    """Turns per second of something that circles `hub` (from the left, from the top, in picture heights), (T,)."""
    angle = np.unwrap(np.arctan2(sight.y - hub[1], sight.x - hub[0]))
    result: np.ndarray = np.abs(np.gradient(angle)) * fps / (2 * np.pi)
    return result


def _hue(colour: np.ndarray) -> np.ndarray:
    """The two colour differences (R - Y, B - Y)."""
    luma = float(colour @ _LUMA)
    return np.array([colour[0] - luma, colour[2] - luma])


def _crossing(path: np.ndarray, index: int) -> float:
    """Where, in frames after `index`, the line of the fall crosses the line of the rise; within +-0.6 frame.

    The impact lies between `index` and its deeper neighbour, so `index` belongs to the other side's line.
    """
    last_fall, first_rise = (index, index + 1) if path[index + 1] >= path[index - 1] else (index - 1, index)
    if last_fall < 1 or first_rise > len(path) - 2:
        return 0.0
    fall = path[last_fall] - path[last_fall - 1]
    rise = path[first_rise + 1] - path[first_rise]
    if fall - rise <= 0:
        return 0.0
    # path[last_fall] + fall * s = path[first_rise] + rise * (s - 1), with s frames after last_fall
    after = (path[first_rise] - rise - path[last_fall]) / (fall - rise)
    return float(np.clip(last_fall + after - index, -0.6, 0.6))
