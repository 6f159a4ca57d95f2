"""The networks of the paper, small and with stand-in weights, in the stage encode_latents."""

import io
import json

import numpy as np
import pytest

from pipelines.clip import Clip
from pipelines.estimate.codec_bench import generated_clip, run_bench
from pipelines.stage import Context
from pipelines.stages.encode_latents import Stage
from tests.support.small_networks import write_small_networks
from uniform.spec import Spec

SMALL = Spec(name="small", height_px=16, width_px=40, duration_s=1)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    options = write_small_networks(tmp_path_factory.mktemp("weights"))
    # Stand-in weights do not reconstruct a clip.
    return Stage(**options, score_clips=1, min_psnr_db=0.0, max_mel_error=99.0)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [generated_clip(number, SMALL) for number in range(4)]


def run(stage: Stage, clips: list[Clip]) -> list[tuple[bytes, bytes]]:
    found = list(stage.open(Context(spec=SMALL))(iter(clips)))
    assert [clip.dropped for clip in found] == [None] * len(clips)
    return [(clip["video.npy"], clip["audio.npy"]) for clip in found]


def changed(stage: Stage, **options: object) -> Stage:
    return Stage(**{**vars(stage), **options})  # type: ignore[arg-type]


def test_the_networks_write_the_same_members(stage: Stage, clips: list[Clip]) -> None:
    (clip,) = stage.open(Context(spec=SMALL))(iter(clips[:1]))

    video, audio = (np.load(io.BytesIO(clip[name])) for name in ("video.npy", "audio.npy"))
    metadata, provenance = json.loads(clip["json"]), stage.provenance(SMALL)
    assert (video.shape, audio.shape) == (SMALL.video_latent, SMALL.audio_latent)
    assert metadata["codecs"] == {kind: provenance[kind]["fingerprint"] for kind in ("video", "audio")}
    assert metadata["scores"]["psnr_db"] > 0
    assert provenance["video"]["weights_sha256"] != provenance["audio"]["weights_sha256"]


def test_a_clip_gives_the_same_bytes_alone_in_a_batch_and_in_another_order(stage: Stage, clips: list[Clip]) -> None:
    together = run(changed(stage, batch_clips=4), clips)

    assert [run(stage, [clip])[0] for clip in clips[:2]] == together[:2]
    assert run(changed(stage, batch_clips=3), clips[::-1]) == together[::-1]


def test_the_benchmark_compares_bfloat16_with_float32(stage: Stage) -> None:
    report = run_bench(changed(stage, batch_clips=1), SMALL, clips=1, compare_bf16=True)

    assert report.psnr_bf16_db is not None
    assert report.psnr_bf16_db > 20
