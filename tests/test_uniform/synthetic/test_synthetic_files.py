from pathlib import Path

import numpy as np
import pytest

from uniform.media.clip_file import read_clip, write_clip
from uniform.spec import PAPER, TOY, Spec
from uniform.synthetic.worlds import WORLDS, make_clip


@pytest.mark.parametrize("spec", [TOY, PAPER], ids=lambda spec: spec.name)
@pytest.mark.parametrize("world", list(WORLDS))
def test_a_normalised_clip_of_the_world_is_visually_lossless_with_exact_audio(
    world: str, spec: Spec, tmp_path: Path
) -> None:
    clip = make_clip(world, 3, spec)
    for name, settings in (("kept.mp4", {}), ("lossless.mp4", {"crf": 0})):
        write_clip(tmp_path / name, clip.frames, clip.waveform, spec.fps, spec.rate_hz, **settings)

    frames, waveform = read_clip(tmp_path / "kept.mp4", spec)
    lossless, _ = read_clip(tmp_path / "lossless.mp4", spec)

    error = np.mean((frames.astype(np.float64) - lossless) ** 2)
    assert 10 * np.log10(255**2 / error) >= 45
    assert np.abs(waveform - clip.waveform).max() <= 0.51 / 32_767  # 16 bits, rounded
