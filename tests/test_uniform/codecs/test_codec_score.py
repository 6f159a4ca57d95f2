import pytest
import torch

from uniform.codecs.audio_dct import DctAudio
from uniform.codecs.log_mel import MelFrontEnd
from uniform.codecs.score import BEST_PSNR_DB, mel_error, psnr_db, round_trip
from uniform.codecs.video_dct import DctVideo


def test_psnr_is_that_of_its_definition() -> None:
    grey = torch.full((2, 8, 8, 3), 100, dtype=torch.uint8)
    other = grey.clone()
    other[0] += 10  # mean square 50

    assert psnr_db(grey, other) == pytest.approx(31.14, abs=0.01)
    assert psnr_db(other, grey) == psnr_db(grey, other)
    assert psnr_db(grey, grey) == BEST_PSNR_DB


def test_mel_error_of_a_louder_sound_is_the_logarithm_of_its_gain() -> None:
    sound = 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    codec = DctAudio(MelFrontEnd())

    assert mel_error(codec, sound, 2 * sound) == pytest.approx(0.6931, abs=1e-3)
    assert mel_error(codec, sound, sound) == 0


def test_a_round_trip_scores_what_it_decoded() -> None:
    video, audio = DctVideo(), DctAudio(MelFrontEnd())
    frames = torch.full((17, 16, 16, 3), 90, dtype=torch.uint8)
    sound = 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    latents = video.encode(frames[None])[0].half(), audio.encode(sound[None])[0].half()

    found = round_trip(video, audio, frames, sound, *latents)

    assert found.frames.shape == frames.shape
    assert found.waveform.shape == sound.shape
    assert found.scores.psnr_db == psnr_db(frames, found.frames)
    assert found.scores.mel_error == mel_error(audio, sound, found.waveform)
