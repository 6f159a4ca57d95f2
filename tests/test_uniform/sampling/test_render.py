import io
import json
import wave
from pathlib import Path

import numpy as np

from uniform.media.clip_file import probe
from uniform.sampling.gallery import write_gallery
from uniform.sampling.render import (
    SPECTROGRAM_ROWS,
    STRIP_FRAMES,
    Rendered,
    spectrogram,
    strip,
    wav_bytes,
    write_sample,
)
from uniform.spec import TOY

TIME_S = np.arange(TOY.samples) / TOY.rate_hz


def _tone(rate_hz: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * rate_hz * TIME_S)).astype(np.float32)


def _frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (TOY.frames, 64, 64, 3), dtype=np.uint8)


def test_a_wav_file_keeps_the_waveform_to_16_bits_and_clips_louder_samples() -> None:
    waveform = np.array([0.0, 0.5, -0.25, 2.0, -2.0], dtype=np.float32)

    with wave.open(io.BytesIO(wav_bytes(waveform, 16_000))) as file:
        found = np.frombuffer(file.readframes(5), "<i2") / 32_767
        assert (file.getframerate(), file.getnchannels()) == (16_000, 1)

    np.testing.assert_allclose(found, [0, 0.5, -0.25, 1, -1], atol=1 / 32_767)


def test_a_tone_is_at_the_row_of_its_frequency_in_the_spectrogram() -> None:
    image = spectrogram(_tone(2_000), width_px=40)[..., 0]

    assert image.shape == (SPECTROGRAM_ROWS, 40)
    brightest = SPECTROGRAM_ROWS - 1 - image.mean(axis=1).argmax()  # row 0 is the highest frequency
    assert abs(brightest / SPECTROGRAM_ROWS * 8_000 - 2_000) < 100


def test_silence_is_dark_in_the_spectrogram() -> None:
    dither = np.random.default_rng(0).normal(scale=1e-5, size=TOY.samples).astype(np.float32)

    assert spectrogram(dither, 40).mean() < 60
    assert spectrogram(np.zeros(TOY.samples, np.float32), 40).max() == 0


def test_the_strip_shows_frames_over_the_spectrogram() -> None:
    frames = _frames()

    image = strip(frames, _tone(440))

    assert image.shape == (64 + SPECTROGRAM_ROWS, STRIP_FRAMES * 64, 3)
    np.testing.assert_array_equal(image[:64, :64], frames[0])
    np.testing.assert_array_equal(image[:64, -64:], frames[-1])


def test_a_sample_is_written_as_files_and_the_gallery_escapes_its_caption(tmp_path: Path) -> None:
    metadata = {"request": {"task": "t2av", "seed": 1, "text": "<script>alert(1)</script>", "media": None}}

    video = write_sample(tmp_path, "a", Rendered(_frames(), _tone(440), metadata), TOY)
    page = write_gallery(tmp_path, "Samples").read_text()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.mp4", "a.png", "a.wav", "index.html"]
    assert json.loads((tmp_path / "a.json").read_text()) == metadata
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert 'src="a.mp4#t=0.1"' in page
    assert probe(video).frames == TOY.frames
