import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pipelines.stage_support.encoding as encoding
from pipelines.clip import Clip
from pipelines.run.ledger import status_of
from pipelines.stage import Context
from pipelines.stages.encode_latents import Stage
from tests.support.fake_stages import rows
from uniform.codecs.audio_dct import DctAudio
from uniform.codecs.base import open_video_codec
from uniform.codecs.log_mel import MelFrontEnd
from uniform.codecs.video_dct import DctVideo
from uniform.errors import ConfigError, SpecMismatchError
from uniform.media.clip_file import read_clip, write_clip
from uniform.media.notes import Note
from uniform.spec import Spec

SMALL = Spec(name="small", height_px=64, width_px=64, duration_s=1, mel_bins=16)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Seven small clips with a moving colour and a tone."""
    folder = tmp_path_factory.mktemp("clips")
    found = []
    for number, row in enumerate(rows(7)):
        place = np.linspace(0, 2 * np.pi, 64) + number
        frames = np.stack(
            [np.stack(np.broadcast_arrays(120 + 60 * np.sin(place + t / 4), 90.0, 60 + 5.0 * t), -1) for t in range(17)]
        )
        video = np.broadcast_to(frames[:, None], (17, 64, 64, 3)).astype(np.uint8)
        time = np.arange(SMALL.samples) / SMALL.rate_hz
        sound = (0.3 * np.sin(2 * np.pi * (300 + 50 * number) * time)).astype(np.float32)
        path = folder / f"{number}.mp4"
        write_clip(path, video, sound, SMALL.fps, SMALL.rate_hz)
        found.append(Clip(row).with_fields(mp4=path.read_bytes()))
    return found


def run(stage: Stage, clips: list[Clip]) -> list[Clip]:
    return list(stage.open(Context(spec=SMALL))(iter(clips)))


def made(clip: Clip) -> tuple[bytes, bytes, bytes]:
    assert clip.dropped is None, clip.dropped
    return clip["video.npy"], clip["audio.npy"], clip["json"]


def test_latents_are_raw_float16_arrays_of_the_spec_s_shape(clips: list[Clip]) -> None:
    (clip,) = run(Stage(), clips[:1])

    video, audio = (np.load(io.BytesIO(clip[name]), allow_pickle=False) for name in ("video.npy", "audio.npy"))
    assert (video.shape, audio.shape) == (SMALL.video_latent, SMALL.audio_latent)
    assert (video.dtype, audio.dtype) == (np.float16, np.float16)
    frames, _ = read_clip(clips[0]["mp4"], SMALL)
    assert torch.equal(
        torch.from_numpy(video), open_video_codec("dct", SMALL).encode(torch.from_numpy(frames[None]))[0].half()
    )


def test_the_metadata_of_a_clip_is_sorted_json_with_codecs_and_scores(clips: list[Clip]) -> None:
    (clip,) = run(Stage(), [clips[0].note(Note("note", "audio starts late"))])

    metadata = json.loads(clip["json"])
    assert clip["json"] == json.dumps(metadata, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert metadata["clip_id"] == clip.row.clip_id
    assert metadata["notes"] == ["audio starts late"]
    assert metadata["codecs"] == {
        "video": DctVideo().card.fingerprint,
        "audio": DctAudio(MelFrontEnd(mel_bins=16)).card.fingerprint,
    }
    assert metadata["scores"]["psnr_db"] > 25
    assert 0 < metadata["scores"]["mel_error"] < 1


def test_a_clip_gives_the_same_bytes_alone_in_a_batch_of_seven_and_in_another_order(clips: list[Clip]) -> None:
    together = [made(clip) for clip in run(Stage(batch_clips=7), clips)]

    assert [made(run(Stage(), [clip])[0]) for clip in clips] == together
    assert [made(clip) for clip in run(Stage(batch_clips=3, decode_threads=2), clips[::-1])] == together[::-1]
    assert [made(clip) for clip in run(Stage(prefetch_clips=0), clips)] == together


def test_a_damaged_clip_is_dropped_and_its_neighbours_are_kept(clips: list[Clip]) -> None:
    whole = clips[1]["mp4"]
    damaged = [clips[0], clips[1].with_fields(mp4=whole[: len(whole) // 3]), clips[2]]

    first, second, third = run(Stage(), damaged)

    assert second.dropped is not None
    assert (status_of(second.dropped.code), second.row) == ("rejected", clips[1].row)
    assert (made(first), made(third)) == (made(run(Stage(), [clips[0]])[0]), made(run(Stage(), [clips[2]])[0]))


def test_clips_of_another_spec_stop_the_run(clips: list[Clip], tmp_path: Path) -> None:
    path = tmp_path / "short.mp4"
    write_clip(path, np.zeros((9, 64, 64, 3), np.uint8), np.zeros(8000, np.float32), 17, 16_000)

    with pytest.raises(SpecMismatchError):
        run(Stage(), [clips[0].with_fields(mp4=path.read_bytes())])


class Changed(DctVideo):
    """The video codec with a fault that a test sets."""

    clips_most: int | None = None
    poison: float = 0.0
    error: Exception | None = None
    seen: list[int]

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self.seen = []

    def encode(self, frames: Tensor) -> Tensor:
        self.seen.append(len(frames))
        if self.clips_most is not None and len(frames) > self.clips_most:
            raise self.error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        latents = super().encode(frames)
        latents[frames.float().mean((1, 2, 3, 4)) == frames[0].float().mean(), 0, 0] += self.poison
        return latents


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Changed]:
    codec = Changed()
    monkeypatch.setattr(encoding, "open_video_codec", lambda *_, **__: codec)
    return codec


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e6])
def test_a_latent_that_float16_cannot_hold_drops_only_its_clip(clips: list[Clip], changed: Changed, bad: float) -> None:
    changed.poison = bad

    found = run(Stage(batch_clips=3), clips[:3])

    assert [clip.dropped.code if clip.dropped else "ok" for clip in found] == ["not_finite", "ok", "ok"]


def test_a_clip_with_a_poor_reconstruction_is_rejected_with_figures(clips: list[Clip], changed: Changed) -> None:
    changed.poison = 30.0

    first, second = run(Stage(min_psnr_db=20.0), clips[:2])

    assert first.dropped is not None
    assert first.dropped.code == "roundtrip_poor"
    assert "dB (at least 20.0)" in first.dropped.reason
    assert second.dropped is None


def test_only_the_wanted_number_of_clips_is_scored(clips: list[Clip]) -> None:
    found = run(Stage(score_clips=2), clips[:4])

    assert [json.loads(clip["json"])["scores"] is not None for clip in found] == [True, True, False, False]


def test_out_of_memory_halves_the_batch_and_goes_on(clips: list[Clip], changed: Changed) -> None:
    changed.clips_most = 2

    found = run(Stage(batch_clips=4), clips)

    assert [clip.dropped for clip in found] == [None] * 7
    assert changed.seen == [4, 2, 2, 2, 1]
    assert [clip["video.npy"] for clip in found] == [clip["video.npy"] for clip in run(Stage(batch_clips=1), clips)]


def test_a_clip_that_does_not_fit_alone_fails_with_a_retryable_code(clips: list[Clip], changed: Changed) -> None:
    changed.clips_most = 0

    found = run(Stage(batch_clips=2), clips[:2])

    assert [clip.dropped and clip.dropped.code for clip in found] == ["out_of_memory"] * 2
    assert status_of("out_of_memory") == "failed"


def test_any_other_error_of_a_codec_is_not_hidden(clips: list[Clip], changed: Changed) -> None:
    changed.clips_most, changed.error = 0, RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        run(Stage(), clips[:1])


def test_reading_stays_a_bounded_number_of_clips_ahead(clips: list[Clip]) -> None:
    taken = 0

    def given() -> Iterator[Clip]:
        nonlocal taken
        for clip in clips:
            taken += 1
            yield clip

    results = Stage(batch_clips=1, prefetch_clips=2).open(Context(spec=SMALL))(given())
    next(results)

    assert taken <= 4
    assert len(list(results)) == 6


def test_provenance_holds_both_cards_and_the_limits_but_not_the_device() -> None:
    provenance = Stage(min_psnr_db=12.0).provenance(SMALL)

    assert provenance["video"] == DctVideo().card.as_dict()
    assert provenance["audio"]["settings"]["mel_bins"] == 16
    assert provenance["score"]["min_psnr_db"] == 12.0
    assert Stage(device="cpu", batch_clips=2).provenance(SMALL) == Stage().provenance(SMALL)


@pytest.mark.parametrize("options", [{"batch_clips": 0}, {"prefetch_clips": -1}, {"score_clips": -1}])
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="or more"):
        Stage(**options)
