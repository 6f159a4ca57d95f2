import pytest

from uniform.errors import ConfigError
from uniform.spec import PAPER, TOY, Spec, latent_frames, spec_by_name
from uniform.tasks import Task


def test_the_papers_clip_has_68_frames_64000_samples_and_the_latents_of_its_codecs() -> None:
    assert (PAPER.frames, PAPER.samples, PAPER.duration_ms, PAPER.mel_frames) == (68, 64_000, 4_000, 400)
    assert (PAPER.video_latent, PAPER.audio_latent) == ((4, 20, 32, 32), (8, 100, 16))


def test_the_toy_clip_has_five_audio_latents_per_latent_frame() -> None:
    assert (TOY.video_latent, TOY.audio_latent) == ((4, 10, 8, 8), (8, 50, 4))


@pytest.mark.parametrize(
    ("frames", "latents"),
    [(1, 1), (16, 4), (17, 5), (18, 6), (34, 10), (51, 15), (65, 19), (68, 20), (69, 21), (102, 30)],
)
def test_chunks_of_17_frames_give_the_originals_latent_counts(frames: int, latents: int) -> None:
    assert latent_frames(frames) == latents


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height_px": 250}, "height_px is 250, which 8 does not divide; choose 248 or 256"),
        ({"mel_bins": 62}, "choose 60 or 64"),
        ({"fps": 0}, "fps is 0"),
        ({"hop_samples": 161}, "which 644 does not divide"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_with_sizes_that_fit(change: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Spec(name="mine", **change)


def test_an_unknown_spec_is_refused_with_the_known_names() -> None:
    assert spec_by_name("paper") is PAPER
    with pytest.raises(ConfigError, match="known: paper, toy"):
        spec_by_name("papr")


def test_each_task_generates_all_but_its_conditioning_modality() -> None:
    table = {task: (task.number, task.generates("video"), task.generates("audio")) for task in Task}

    assert table == {Task.T2AV: (0, True, True), Task.A2V: (1, True, False), Task.V2A: (2, False, True)}
