"""`uniform sample`: invalid options are refused; prompts and manifests are sampled."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.support.small_sampler import write_conditioning_clip, write_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conditioning_clip(tmp_path_factory.mktemp("conditioning"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", ""], "the prompt is empty"),
        ([], "t2av needs a text"),
        (["--task", "t2v", "--text", "a"], "did you mean 't2av'"),
        (["--text", "a", "--solver", "dimm"], "did you mean 'ddim'"),
        (["--text", "a", "--solver", "euler"], "does not fit"),
        (["--text", "a", "--cfg", "0"], "--cfg is 0.0; a guidance scale must be above 0"),
        (["--text", "a", "--cfg-video", "-3"], "--cfg-video is -3.0"),
        (["--text", "a", "--cfg-given", "2"], "t2av has no conditioning modality"),
        (["--text", "a", "--solver", "dpm++", "--steps", "1000"], "take 1 to 999"),
        (["--text", "a", "--start", "nan"], "the start is nan s"),
        (["--text", "a", "--start", "inf"], "the start is inf s"),
        (["--text", "a", "--name", "a" * 300], "longer than 200 bytes"),
        (["--text", "a", "--codec", "text.widht=8"], "did you mean 'width'"),
        (["--text", "a", "--precision", "fp16"], "did you mean 'bf16'"),
        (["--text", "a", "--steps", "0"], "steps"),
        (["--text", "a", "--batch", "0"], "it must be 1 or more"),
        (["--text", "a", "--codec", "vidoe.weights=x"], "there is no codec for 'vidoe'"),
        (["nowhere.wav", "--task", "a2v"], "is not a file"),
        (["--text", "a", "--name", "../a"], "not a plain file name"),
    ],
)
def test_the_command_refuses_invalid_options(checkpoint: Path, tmp_path: Path, words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["sample", "-c", str(checkpoint), "--out", str(tmp_path / "out"), *words])

    assert result.exit_code == 1
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_of_prompts_can_mix_the_tasks(checkpoint: Path, clip_file: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        f'{{"text": "a ball", "name": "one"}}\n{{"task": "v2a", "media": "{clip_file}", "name": "two"}}\n'
    )
    words = ["--prompts", str(prompts), "--steps", "1", "--out", str(tmp_path / "out")]

    result = CliRunner().invoke(app, ["sample", "-c", str(checkpoint), *words])

    assert result.exit_code == 0, result.output
    assert {path.stem for path in (tmp_path / "out").glob("*.mp4")} == {"one", "two"}
    assert "one.mp4" in (tmp_path / "out" / "index.html").read_text()

    later = CliRunner().invoke(app, ["sample", "-c", str(checkpoint), *words, "--name", "later", "--seed", "9"])
    assert later.exit_code == 0, later.output
    assert {path.stem for path in (tmp_path / "out").glob("*.mp4")} == {"one", "two", "later-one", "later-two"}


def test_a_manifest_is_sampled_clip_by_clip_and_a_second_run_keeps_the_samples(
    checkpoint: Path, clip_file: Path, tmp_path: Path
) -> None:
    line = {"path": clip_file.name, "start": 0, "split": "test"}
    (clip_file.parent / "clips.jsonl").write_text(json.dumps(line) + "\n")
    manifest = clip_file.parent / "clips.toml"
    manifest.write_text(
        'name = "clips"\nkind = "local"\ntitle = "Clips"\nroot = "."\nlicense = "CC0-1.0"\n'
        '[listing]\nfile = "clips.jsonl"\nduration_s = 2.0\n'
        '[listing.columns]\nsource_uri = "path"\nstart_ms = "start"\nsplit = "split"\n'
    )
    words = ["sample", "-c", str(checkpoint), "--task", "v2a", "--manifest", str(manifest), "--steps", "1"]
    out = ["--out", str(tmp_path / "out")]

    first = CliRunner().invoke(app, [*words, "--split", "test", *out])
    assert first.exit_code == 0, first.output
    (made,) = (tmp_path / "out").glob("*.mp4")
    before = made.stat().st_mtime_ns
    again = CliRunner().invoke(app, [*words, "--split", "test", *out])
    assert (again.exit_code, made.stat().st_mtime_ns) == (0, before)
    assert (
        "no clip is of split 'valid'; there are test"
        in CliRunner().invoke(app, [*words, "--split", "valid", *out]).stderr
    )
    both = CliRunner().invoke(app, [*words, "--prompts", str(manifest), *out])
    assert "give one of them" in both.stderr


def test_finished_samples_are_in_the_gallery_although_one_file_is_unusable(
    checkpoint: Path, clip_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    prompts = tmp_path / "p.jsonl"
    lines = [{"name": "good", "media": str(clip_file)}, {"name": "bad", "media": "broken.mp4"}]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["--task", "v2a", "--prompts", str(prompts), "--steps", "1", "--out", str(tmp_path / "out")]

    result = CliRunner().invoke(app, ["sample", "-c", str(checkpoint), *words])

    assert result.exit_code == 1
    assert "1 of 2 samples are made" in result.stderr
    assert "good.mp4" in (tmp_path / "out" / "index.html").read_text()


def test_another_page_and_a_file_in_the_way_are_not_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<h1>mine</h1>")
    (tmp_path / "file").write_text("mine")
    words = ["sample", "-c", str(checkpoint), "--text", "a", "--steps", "1"]

    page = CliRunner().invoke(app, [*words, "--out", str(tmp_path)])
    file = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "file" / "samples")])

    assert (page.exit_code, file.exit_code) == (1, 1)
    assert "is not a gallery of samples" in page.stderr
    assert "is a file, not a folder" in file.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "file"}
