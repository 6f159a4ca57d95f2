import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from pipelines.estimate.codec_bench import BenchReport
from tests.support.paths import ROOT
from uniform.codecs.options import parse_options
from uniform.errors import ConfigError, InputError
from uniform.media.clip_file import probe, write_clip
from uniform.spec import TOY
from uniform.synthetic.worlds import make_clip

RUNNER = CliRunner()
CLIPS = ROOT.parent / "shared" / "clips"


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clip = make_clip("w1", 0, TOY)
    path = tmp_path_factory.mktemp("clip_file") / "ball.mp4"
    write_clip(path, clip.frames, clip.waveform, TOY.fps, TOY.rate_hz)
    return path


def test_reconstruct_writes_the_clip_before_and_after_and_its_scores(clip_file: Path, tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["codec", "roundtrip", str(clip_file), "--spec", "toy", "--out", str(tmp_path)])

    assert result.exit_code == 0, result.output
    result_json = json.loads((tmp_path / "scores.json").read_text())
    assert result_json["scores"]["psnr_db"] > 24
    assert result_json["scores"]["mel_error"] < 0.5
    assert f"PSNR {result_json['scores']['psnr_db']:.2f} dB" in result.output
    both, after = probe(tmp_path / "both.mp4"), probe(tmp_path / "after.mp4")
    assert (after.frames, after.width_px) == (TOY.frames, TOY.width_px)
    assert (both.frames, both.width_px) == (2 * TOY.frames, 2 * TOY.width_px + 8)
    assert both.samples >= 2 * TOY.samples
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"no real clips at {CLIPS}")
@pytest.mark.parametrize(("name", "least_db"), [("r12_bbb_5.1_sar.mp4", 24.0), ("n07_drum_bass.mp4", 19.0)])
def test_real_clips_are_reconstructed_above_a_least_psnr(name: str, least_db: float, tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["codec", "roundtrip", str(CLIPS / name), "--out", str(tmp_path), "--device", "cpu"])

    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert scores["psnr_db"] > least_db
    assert scores["mel_error"] < 0.15


def test_reconstruct_refuses_a_file_that_is_not_media(tmp_path: Path) -> None:
    page = tmp_path / "clip.mp4"
    page.write_text("<html>404</html>")

    result = RUNNER.invoke(app, ["codec", "roundtrip", str(page), "--spec", "toy", "--out", str(tmp_path / "out")])

    assert result.exit_code == 1
    assert "not_media" in result.output
    assert not (tmp_path / "out").exists()


def test_an_unknown_codec_is_refused_with_the_known_names(clip_file: Path, tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["codec", "roundtrip", str(clip_file), "--video", "jpeg", "--out", str(tmp_path)])

    assert result.exit_code == 1
    assert "opensora-v1.2" in result.output


def test_bench_prints_speed_parts_waiting_and_memory() -> None:
    result = RUNNER.invoke(app, ["codec", "bench", "--spec", "toy", "--clips", "2", "--batch", "1", "--device", "cpu"])

    assert result.exit_code == 0, result.output
    for wanted in ("clips/s", "waiting for data", "encode video", "decode audio", "memory"):
        assert wanted in result.output


def test_bench_refuses_a_precision_that_the_codec_does_not_have() -> None:
    result = RUNNER.invoke(app, ["codec", "bench", "--bf16", "--clips", "1"])

    assert result.exit_code == 1
    assert "no dtype option" in result.output


def test_bench_prints_ratios_of_the_measured_values() -> None:
    report = BenchReport(
        clips=8,
        clips_per_s=3.0,
        clips_per_s_unqueued=2.0,
        waited=0.04,
        waited_unqueued=0.4,
        seconds_per_clip={"read": 0.1},
        memory_mb=512,
        device_memory_mb=None,
        psnr_bf16_db=51.25,
    )

    text = "\n".join(report.lines())

    assert "(ratio 1.50)" in text
    assert "4.0% of the time with prefetching, 40.0% without" in text
    assert "PSNR 51.25 dB" in text
    assert "device" not in text


def test_codec_options_are_parsed_as_toml_values_or_text() -> None:
    found = parse_options(["video.weights=/data/vae", "video.frame_batch=2", "audio.peak=0.5", "text.compiled=true"])

    assert found == {
        "video": {"weights": "/data/vae", "frame_batch": 2},
        "audio": {"peak": 0.5},
        "text": {"compiled": True},
    }


@pytest.mark.parametrize("item", ["video.weights", "weights=x", "sound.weights=x", "video.=x", "video.weights="])
def test_codec_options_of_another_form_are_refused(item: str) -> None:
    with pytest.raises(InputError, match="--codec"):
        parse_options([item])


def test_bench_of_no_clips_is_refused() -> None:
    from pipelines.estimate.codec_bench import run_bench
    from pipelines.stages.encode_latents import Stage

    with pytest.raises(ConfigError, match="it must be 1 or more"):
        run_bench(Stage(), TOY, clips=0)
