import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from cli.main import app
from uniform.avworld.worlds import make_clip
from uniform.codecs.base import open_audio_codec, open_text_codec, open_video_codec
from uniform.diffusion.guidance import Guidance
from uniform.diffusion.objective import DiffusionConfig
from uniform.errors import InputError, SpecMismatchError
from uniform.media.clipfile import probe, write_clip
from uniform.media.sandbox import MediaSandbox
from uniform.model.checkpoint import ModelFacts, save_model
from uniform.model.config import ModelConfig
from uniform.model.transformer import UniForm
from uniform.sampling.open import open_sampler
from uniform.sampling.request import Request, several
from uniform.sampling.sampler import SampleConfig, Sampler
from uniform.spec import TOY
from uniform.tasks import Task

FAST = SampleConfig(solver="ddim", steps=2, guidance=Guidance(video=2.0, audio=2.0))
CLIP = make_clip("w1", 5, TOY)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of the smallest kind, with everything that a trained one remembers."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, *_model())
    return path


def _model(**changes: object) -> tuple[UniForm, ModelFacts]:
    config = ModelConfig(depth=1, width=16, heads=2, text_width=64, text_tokens=64, learned_variance=False)
    codec = {
        "video": open_video_codec("dct", TOY).card.as_dict(),
        "audio": open_audio_codec("dct", TOY).card.as_dict(),
        "texts": {"given": {"codec": open_text_codec("bytes", TOY).card.as_dict()}},
    }
    facts = ModelFacts(
        model=config, spec=TOY, diffusion=asdict(DiffusionConfig(objective="v")), codecs=codec, **changes
    )
    return UniForm(config, TOY.video_latent, TOY.audio_latent), facts


@pytest.fixture(scope="module")
def sampler(checkpoint: Path) -> Sampler:
    return open_sampler(checkpoint)


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("given") / "clip.mp4"
    write_clip(path, CLIP.frames, CLIP.waveform, TOY.fps, TOY.rate_hz)
    return path


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".json"}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(sampler: Sampler, tmp_path: Path) -> None:
    request = Request(name="a", task=Task.T2AV, text="a red ball", seed=3)
    sampler.run([request], tmp_path / "1", FAST)
    sampler.run([request], tmp_path / "2", FAST)
    sampler.run([replace(request, seed=4)], tmp_path / "3", FAST)

    assert _contents(tmp_path / "1") == _contents(tmp_path / "2")
    assert _contents(tmp_path / "1")["a.wav"] != _contents(tmp_path / "3")["a.wav"]
    assert sorted(_contents(tmp_path / "1")) == ["a.mp4", "a.png", "a.wav"]


def test_a_given_sound_is_in_the_result_as_it_came(sampler: Sampler, clip_file: Path, tmp_path: Path) -> None:
    sampler.run([Request(name="a", task=Task.A2V, media=clip_file)], tmp_path, FAST)

    with MediaSandbox() as sandbox:
        heard = sandbox.load(tmp_path / "a.wav", TOY, want_video=False).waveform
        given = sandbox.load(clip_file, TOY, want_video=False).waveform
    assert heard is not None
    assert given is not None
    np.testing.assert_allclose(heard, given, atol=1.5 / 32_767)


def test_a_given_picture_is_in_the_result_as_it_came(sampler: Sampler, clip_file: Path, tmp_path: Path) -> None:
    sampler.run([Request(name="a", task=Task.V2A, media=clip_file)], tmp_path, FAST)

    with MediaSandbox() as sandbox:
        seen = sandbox.load(tmp_path / "a.mp4", TOY, want_audio=False).frames
        given = sandbox.load(clip_file, TOY, want_audio=False).frames
    assert seen is not None
    assert given is not None
    error = (seen.astype(float) - given.astype(float)) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 38  # H.264 twice and 4:2:0 in between; the codec gives under 30


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(sampler: Sampler, tmp_path: Path) -> None:
    requests = several(Request(name="a", task=Task.T2AV, text="a red ball"), 3)
    config = replace(FAST, batch_clips=2, keep_latents=True)
    whole = sampler.run(requests, tmp_path / "whole", config)
    sampler.run(requests, tmp_path / "stopped", config)
    for name in ("a-001.json", "a-002.json", "a-002.mp4"):  # what a process killed here and there leaves
        (tmp_path / "stopped" / name).unlink()

    asked: list[int] = []
    sampler.run(requests, tmp_path / "stopped", config, lambda progress: asked.append(progress.done))

    assert _contents(tmp_path / "stopped") == _contents(tmp_path / "whole")
    assert asked[-1] == 3
    assert [path.name for path in whole] == ["a-000.mp4", "a-001.mp4", "a-002.mp4"]
    assert load_file(tmp_path / "whole" / "a-000.safetensors")["video"].shape == TOY.video_latent


def test_finished_samples_are_not_made_again(sampler: Sampler, tmp_path: Path) -> None:
    request = Request(name="a", task=Task.T2AV, text="a red ball")
    sampler.run([request], tmp_path, FAST)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    sampler.run([request], tmp_path, FAST)

    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_sample_made_in_another_way_is_not_overwritten(sampler: Sampler, tmp_path: Path) -> None:
    request = Request(name="a", task=Task.T2AV, text="a red ball")
    sampler.run([request], tmp_path, FAST)
    before = _contents(tmp_path)

    with pytest.raises(InputError, match="Nothing is overwritten"):
        sampler.run([replace(request, text="a blue ball")], tmp_path, FAST)

    assert _contents(tmp_path) == before


def test_an_input_without_sound_is_refused_by_name(sampler: Sampler, tmp_path: Path) -> None:
    write_clip(tmp_path / "mute.mp4", CLIP.frames, None, TOY.fps, TOY.rate_hz)

    with pytest.raises(InputError, match=r"mute\.mp4 cannot be used \(no_audio"):
        sampler.run([Request(name="a", task=Task.A2V, media=tmp_path / "mute.mp4")], tmp_path / "out", FAST)

    assert not (tmp_path / "out").exists()


def test_a_sound_that_ends_early_is_followed_by_silence_and_the_facts_say_so(sampler: Sampler, tmp_path: Path) -> None:
    write_clip(tmp_path / "short.mp4", CLIP.frames[:17], CLIP.waveform[:16_000], TOY.fps, TOY.rate_hz)

    sampler.run([Request(name="a", task=Task.A2V, media=tmp_path / "short.mp4")], tmp_path, FAST)

    assert probe(tmp_path / "a.mp4").frames == TOY.frames
    assert json.loads((tmp_path / "a.json").read_text())["notes"] == ["audio ends 1,000 ms early"]


def test_a_codec_with_another_fingerprint_is_refused(tmp_path: Path) -> None:
    model, facts = _model()
    altered = {**facts.codecs, "video": {**facts.codecs["video"], "code_version": 99, "fingerprint": "0000"}}
    save_model(tmp_path / "m.safetensors", model, replace(facts, codecs=altered))

    with pytest.raises(SpecMismatchError, match=r"code_version +1 +99"):
        open_sampler(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--text", ""], "the prompt is empty"),
        (["--text", "x" * 10_000], "10,000 characters"),
        ([], "t2av starts from text"),
        (["--task", "t2v", "--text", "a"], "did you mean 't2av'"),
        (["--text", "a", "--solver", "dimm"], "did you mean 'ddim'"),
        (["--text", "a", "--solver", "euler"], "does not fit"),
        (["--text", "a", "--cfg", "0"], "must be above 0"),
        (["--text", "a", "--steps", "0"], "steps"),
        (["--text", "a", "--batch", "0"], "it must be 1 or more"),
        (["--text", "a", "--codec", "vidoe.weights=x"], "there is no codec for 'vidoe'"),
        (["nowhere.wav", "--task", "a2v"], "is not a file"),
        (["--text", "a", "--name", "../a"], "not a plain file name"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(checkpoint: Path, tmp_path: Path, words: list[str], told: str) -> None:
    result = CliRunner().invoke(app, ["sample", "-c", str(checkpoint), "--out", str(tmp_path / "out"), *words])

    assert result.exit_code == 1
    assert told in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_of_prompts_may_mix_the_tasks(checkpoint: Path, clip_file: Path, tmp_path: Path) -> None:
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


def test_a_manifest_is_sampled_clip_by_clip_and_gone_on_with(checkpoint: Path, clip_file: Path, tmp_path: Path) -> None:
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
