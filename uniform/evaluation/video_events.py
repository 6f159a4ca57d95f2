"""Track a bright ball in a video: its path, its impacts on the floor and its colour.

The ball is the part brighter than the background of its row. Its middle is a brightness-weighted mean, which is robust
to a codec that keeps little more than the means of 8 x 8 pixels. An impact is a sharp lowest point of the path; its
time is where fall and rise meet, with sub-frame precision.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Region = Literal["left", "right", "whole"]
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_BACKGROUND_PERCENTILE = 25
_BACKGROUND_STRIDE = 3
"""The background is estimated from every third frame."""
_NOISE_SHARE = 0.15
"""Differences below this share of the ball's brightness count as background."""


_USUAL_FLIGHT_FRAMES = 9
"""Length of the flights before the first and after the last impact of a clip."""
_FIT_FRAMES = 3
"""Frames on each side of an impact that are used to fit its time."""
_CANDIDATES = np.linspace(-1.0, 1.0, 81)
"""Candidate times around the lowest frame, in frames."""


@dataclass(frozen=True, kw_only=True)
class VideoEventRule:
    """Thresholds of an impact. Lengths are in frame heights."""

    least_prominence: float = 0.06
    """Least rise of the path on both sides."""
    prominence_within_s: float = 0.3
    """Time within which the path must rise."""
    least_depth: float = 0.5
    """Least distance of the lowest point from the top."""
    refractory_s: float = 0.15
    """Least distance of two events; the lower one is kept."""
    least_contrast: float = 12.0
    """Least brightness over the background, of 255, of a ball."""


@dataclass(frozen=True, kw_only=True)
class BallTrack:
    """Path and colour of one ball."""

    x: np.ndarray
    """float64 (T,), middle from the left, in frame heights."""
    y: np.ndarray
    """float64 (T,), middle from the top, in frame heights."""
    colour: np.ndarray
    """float64 (3,), mean difference of the ball from its background, RGB, of 255."""
    contrast: float
    """Brightness over the background, of 255."""


def track_ball(frames: np.ndarray, region: Region = "whole") -> BallTrack:
    """Track the brightest object of a video.

    Args:
        frames: uint8 (T, H, W, 3), RGB.
        region: use the left or right half only.
    """
    width = frames.shape[2]
    columns = {"left": slice(0, width // 2), "right": slice(width // 2, width), "whole": slice(0, width)}[region]
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
    return BallTrack(x=x, y=y, colour=colour.astype(np.float64), contrast=contrast)


def video_events(track: BallTrack, fps: float, rule: VideoEventRule | None = None) -> np.ndarray:
    """Detect the impacts of a ball.

    Args:
        track: path of the ball.
        fps: frames per second.
        rule: thresholds; None takes the defaults.
    Returns: float64 (N,), seconds, ascending.
    """
    rule = rule or VideoEventRule()
    path = track.y
    if track.contrast < rule.least_contrast:
        return np.empty(0)
    reach = max(1, round(rule.prominence_within_s * fps))
    found: list[tuple[float, int]] = []  # (depth, frame)
    for index in range(1, len(path) - 1):
        if not (path[index - 1] < path[index] >= path[index + 1]) or path[index] < rule.least_depth:
            continue
        before = path[index] - path[max(0, index - reach) : index].min()
        after = path[index] - path[index + 1 : index + 1 + reach].min()
        if min(before, after) >= rule.least_prominence:
            found.append((float(path[index]), index))
    kept: list[int] = []
    for _, index in sorted(found, reverse=True):
        if all(abs(index - other) >= rule.refractory_s * fps for other in kept):
            kept.append(index)
    return _refined(path, np.array(sorted(kept), int)) / fps


def nearest_colour(track: BallTrack, colours: Mapping[str, tuple[int, int, int]]) -> str:
    """The colour class of nearest hue, regardless of brightness; "grey" at low saturation."""
    found = _hue(track.colour)
    if np.hypot(*found) < 0.18 * max(float(track.colour @ _LUMA), 1.0):
        return "grey"
    angle = np.arctan2(found[1], found[0])

    def distance(name: str) -> float:
        hue = _hue(np.array(colours[name], np.float64))
        return abs(float(np.angle(np.exp(1j * (angle - np.arctan2(hue[1], hue[0]))))))

    return min(colours, key=distance)


def turning_speed(track: BallTrack, fps: float, hub: tuple[float, float]) -> np.ndarray:
    """Turns per second of an object around `hub` (from the left, from the top, in frame heights), (T,)."""
    angle = np.unwrap(np.arctan2(track.y - hub[1], track.x - hub[0]))
    result: np.ndarray = np.abs(np.gradient(angle)) * fps / (2 * np.pi)
    return result


def _hue(colour: np.ndarray) -> np.ndarray:
    """The two colour differences (R - Y, B - Y)."""
    luma = float(colour @ _LUMA)
    return np.array([colour[0] - luma, colour[2] - luma])


def _refined(path: np.ndarray, rough: np.ndarray) -> np.ndarray:
    """Impact times in frames, with sub-frame precision, from the lowest frames `rough`.

    Around an impact the path is fitted by two parabolas that meet at it with equal speed: a fall and a rise that end at
    the neighbouring impacts. For each candidate time, floor and speed are a linear fit; the best time is taken.
    """
    refined = rough.astype(np.float64)
    for number, index in enumerate(rough):
        before = index - rough[number - 1] if number else _USUAL_FLIGHT_FRAMES
        after = rough[number + 1] - index if number + 1 < len(rough) else _USUAL_FLIGHT_FRAMES
        reach_before, reach_after = (min(_FIT_FRAMES, max(1, int(0.7 * gap))) for gap in (before, after))
        frames = np.arange(max(0, index - reach_before), min(len(path), index + reach_after + 1))
        since = frames - (index + _CANDIDATES)[:, None]  # (candidates, frames)
        gap = np.where(since < 0, before, after)
        height = np.abs(since) * (1 - np.abs(since) / gap)
        height -= height.mean(axis=1, keepdims=True)
        drop = path[frames] - path[frames].mean()
        covered = (height @ drop) ** 2 / np.maximum((height**2).sum(axis=1), 1e-12)  # explained variance of the fit
        covered[height @ drop >= 0] = -np.inf  # the floor is below, not above
        refined[number] += _CANDIDATES[int(np.argmax(covered))]
    return refined
