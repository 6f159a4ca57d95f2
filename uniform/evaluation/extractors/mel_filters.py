"""Mel filter banks in the two spellings that the audio networks were trained with. NumPy alone, float64."""

import numpy as np


def slaney_filters(*, rate_hz: int, fft_samples: int, mel_bins: int, min_hz: float, max_hz: float) -> np.ndarray:
    """Triangular filters on the Slaney mel scale, each divided by its width: librosa's default.

    Returns: float64 (fft_samples / 2 + 1, mel_bins).
    Source: librosa 0.11 `filters.mel` (Slaney, Auditory Toolbox 1998).
    """
    bins_hz = np.linspace(0, rate_hz / 2, fft_samples // 2 + 1)  # (F,)
    edges_hz = _slaney_to_hz(np.linspace(_hz_to_slaney(min_hz), _hz_to_slaney(max_hz), mel_bins + 2))  # (M + 2,)
    rising = (bins_hz[:, None] - edges_hz[:-2]) / np.diff(edges_hz)[:-1]
    falling = (edges_hz[2:] - bins_hz[:, None]) / np.diff(edges_hz)[1:]
    filters: np.ndarray = np.maximum(0, np.minimum(rising, falling)) * (2 / (edges_hz[2:] - edges_hz[:-2]))
    return filters


def htk_filters(*, rate_hz: int, fft_samples: int, mel_bins: int, min_hz: float, max_hz: float) -> np.ndarray:
    """Filters that are triangles on the HTK mel scale, of height 1; the bin at 0 Hz belongs to none.

    Returns: float64 (fft_samples / 2 + 1, mel_bins).
    Source: Google's AudioSet code, `mel_features.py`.
    """
    bins_mel = _hz_to_htk(np.linspace(0, rate_hz / 2, fft_samples // 2 + 1))  # (F,)
    edges_mel = np.linspace(_hz_to_htk(np.array(min_hz)), _hz_to_htk(np.array(max_hz)), mel_bins + 2)  # (M + 2,)
    rising = (bins_mel[:, None] - edges_mel[:-2]) / np.diff(edges_mel)[:-1]
    falling = (edges_mel[2:] - bins_mel[:, None]) / np.diff(edges_mel)[1:]
    filters: np.ndarray = np.maximum(0, np.minimum(rising, falling))
    filters[0] = 0
    return filters


def _hz_to_htk(hz: np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(hz / 700.0)


_LINEAR_HZ = 1000.0
"""The Slaney scale is linear below and logarithmic above."""
_HZ_PER_MEL = 200.0 / 3
_LOG_STEP = np.log(6.4) / 27


def _hz_to_slaney(hz: float) -> float:
    if hz < _LINEAR_HZ:
        return hz / _HZ_PER_MEL
    return float(_LINEAR_HZ / _HZ_PER_MEL + np.log(hz / _LINEAR_HZ) / _LOG_STEP)


def _slaney_to_hz(mel: np.ndarray) -> np.ndarray:
    corner = _LINEAR_HZ / _HZ_PER_MEL
    return np.where(mel < corner, mel * _HZ_PER_MEL, _LINEAR_HZ * np.exp(_LOG_STEP * (mel - corner)))
