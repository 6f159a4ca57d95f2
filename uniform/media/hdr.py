"""Tone-map high dynamic range frames (PQ and HLG) to BT.709 frames of standard range.

Steps: code values -> light in nits (BT.2100's PQ curve, or HLG with its system gamma for a 1,000-nit display) ->
light relative to diffuse white at 203 nits (BT.2408) -> BT.2020 to BT.709 primaries -> a shoulder on the largest
channel, which keeps hue, changes nothing below half of diffuse white and maps 1,000 nits to white -> BT.709's curve.
"""

import functools

import numpy as np
from numpy.typing import NDArray

TRANSFER_PQ = 16
TRANSFER_HLG = 18
"""Numbers of ITU-T H.273, as FFmpeg uses them."""
DIFFUSE_WHITE_NITS = 203.0
PEAK_NITS = 1000.0
KNEE = 0.5
"""Light, relative to diffuse white, below which nothing changes."""
CODE_VALUES = 1 << 16

BT2020_TO_BT709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]],
    dtype=np.float32,
)
"""Linear light; ITU-R BT.2087, inverted."""
LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], dtype=np.float32)


def tone_map(rgb: NDArray[np.uint16], transfer: int) -> NDArray[np.uint8]:
    """Tone-map a frame to standard range.

    Args:
        rgb: (H, W, 3), non-linear BT.2020 code values, full range 0..65535.
        transfer: TRANSFER_PQ or TRANSFER_HLG.
    Returns: (H, W, 3) BT.709, 0..255.
    """
    light = _curve(transfer)[rgb]  # (H, W, 3), 1.0 = diffuse white
    if transfer == TRANSFER_HLG:  # system gamma 1.2 acts on the scene's luminance (BT.2100, table 5)
        scene = light @ LUMA_2020
        light = light * np.power(np.maximum(scene, 1e-6), 0.2)[..., None] * np.float32(PEAK_NITS / DIFFUSE_WHITE_NITS)
    light = np.maximum(light @ BT2020_TO_BT709.T, 0)
    largest = np.maximum(light.max(axis=-1, keepdims=True), 1e-6)
    return _bt709_bytes(light * (_shoulder(largest) / largest))


def _shoulder(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Identity up to the knee, then an extended Reinhard curve of the same slope that reaches 1 at the peak."""
    above = np.maximum(light - KNEE, 0) / (1 - KNEE)
    peak = (PEAK_NITS / DIFFUSE_WHITE_NITS - KNEE) / (1 - KNEE)
    rolled: NDArray[np.float32] = KNEE + (1 - KNEE) * above * (1 + above / peak**2) / (1 + above)
    return np.where(light <= KNEE, light, rolled)


@functools.cache
def _curve(transfer: int) -> NDArray[np.float32]:
    """Light of every code value: for PQ relative to diffuse white, for HLG relative to the scene's peak."""
    code = np.arange(CODE_VALUES, dtype=np.float64) / (CODE_VALUES - 1)
    if transfer == TRANSFER_PQ:  # BT.2100, table 4
        m1, m2 = 2610 / 16384, 2523 / 32
        c1, c2, c3 = 3424 / 4096, 2413 / 128, 2392 / 128
        power = np.power(code, 1 / m2)
        nits = 10_000 * np.power(np.maximum(power - c1, 0) / (c2 - c3 * power), 1 / m1)
        return (nits / DIFFUSE_WHITE_NITS).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073  # BT.2100, table 5
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)


def _bt709_bytes(light: NDArray[np.float32]) -> NDArray[np.uint8]:
    light = np.clip(light, 0, 1)
    code = np.where(light < 0.018, 4.5 * light, 1.099 * np.power(light, 0.45) - 0.099)
    coded: NDArray[np.uint8] = np.rint(code * 255).astype(np.uint8)
    return coded
