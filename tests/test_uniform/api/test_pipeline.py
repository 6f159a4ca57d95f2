"""`UniFormPipeline`: the same bytes as the command line, arrays as conditions, and one clear error for bad input."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import uniform
from cli.main import app
from tests.support.hub_cache import put_in_cache, use_cache
from tests.support.small_sampler import CLIP, small_model, write_conditioning_clip, write_model
from uniform.api.pipeline import UniFormPipeline
from uniform.api.sample import SampleInput
from uniform.errors import CheckpointError, InputError, SpecMismatchError, UniformError
from uniform.export.model import export_diffusers
from uniform.model.checkpoint import load_model, save_model
from uniform.spec import PAPER, TOY

STEPS = 2


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> UniFormPipeline:
    return UniFormPipeline.from_pretrained(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conditioning_clip(tmp_path_factory.mktemp("conditioning"))


def _command(checkpoint: Path, out: Path, *words: str) -> None:
    result = CliRunner().invoke(app, ["sample", "-c", str(checkpoint), "--out", str(out), "--device", "cpu", *words])
    assert result.exit_code == 0, result.output


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".html"}


def test_a_sample_has_the_bytes_of_the_command_line(
    pipeline: UniFormPipeline, checkpoint: Path, clip_file: Path, tmp_path: Path
) -> None:
    words = ["--steps", str(STEPS), "--solver", "ddim", "--cfg", "3", "--latents"]
    _command(
        checkpoint, tmp_path / "cli", "--text", "rain", "--seed", "7", "--name", "rain", "--cfg-audio", "2", *words
    )
    _command(checkpoint, tmp_path / "cli", str(clip_file), "--task", "a2v", "--name", "seen", *words)
    _command(checkpoint, tmp_path / "cli", str(clip_file), "--task", "v2a", "--text", "rain", "--name", "heard", *words)

    made = {"steps": STEPS, "solver": "ddim", "guidance": 3.0}
    out = tmp_path / "api"
    pipeline(text="rain", seed=7, audio_guidance=2.0, **made).save(out / "rain.mp4", latents=True)
    pipeline("a2v", audio=clip_file, **made).save(out / "seen", latents=True)
    pipeline("v2a", video=str(clip_file), text="rain", **made).save(out / "heard.mp4", latents=True)

    assert _contents(out) == _contents(tmp_path / "cli")
    assert len(_contents(out)) == 15


def test_a_batch_has_the_bytes_of_the_command_line_for_a_file_of_prompts(
    pipeline: UniFormPipeline, checkpoint: Path, clip_file: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "p.jsonl"
    lines = [{"text": "rain"}, {"task": "v2a", "media": str(clip_file)}, {"text": "a dog"}, {"text": "wind, far away"}]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _command(checkpoint, tmp_path / "cli", "--prompts", str(prompts), "--steps", "2", "--batch", "2")

    inputs = [
        SampleInput(text="rain", seed=0),
        SampleInput(task="v2a", video=clip_file, seed=1),
        SampleInput(text="a dog", seed=2),
        SampleInput(text="wind, far away", seed=3),
    ]
    made = pipeline.batch(inputs, pipeline.settings(steps=2, batch_clips=2))
    for number, sample in enumerate(made, start=1):
        sample.save(tmp_path / "api" / f"p-{number:06d}.mp4")

    assert _contents(tmp_path / "api") == _contents(tmp_path / "cli")


def test_a_sample_holds_arrays_of_the_models_geometry(pipeline: UniFormPipeline) -> None:
    steps: list[int] = []
    sample = pipeline(text="rain", steps=3, callback=lambda progress: steps.append(progress.step))

    assert (sample.video.shape, sample.video.dtype) == ((TOY.frames, 64, 64, 3), np.uint8)
    assert (sample.audio.shape, sample.audio.dtype) == ((TOY.samples,), np.float32)
    assert (sample.fps, sample.rate_hz) == (TOY.fps, TOY.rate_hz)
    assert tuple(sample.latents.video.shape) == TOY.video_latent
    assert tuple(sample.latents.audio.shape) == TOY.audio_latent
    assert steps == [1, 2, 3, 0]


def test_arrays_are_conditions_and_stay_as_they_are(pipeline: UniFormPipeline, tmp_path: Path) -> None:
    seen = pipeline("a2v", audio=CLIP.waveform, steps=STEPS)
    heard = pipeline("v2a", video=CLIP.frames, steps=STEPS)

    np.testing.assert_array_equal(seen.audio, CLIP.waveform)
    np.testing.assert_array_equal(heard.video, CLIP.frames)
    other = pipeline("a2v", audio=0.5 * CLIP.waveform, steps=STEPS)
    assert not torch.equal(seen.latents.audio, other.latents.audio)
    marks = [json.loads(one.save(tmp_path / "a").with_suffix(".json").read_bytes())["mark"] for one in (seen, other)]
    assert marks[0] != marks[1]


def test_a_generator_draws_the_seeds_in_order(pipeline: UniFormPipeline) -> None:
    first, again = (
        pipeline.batch(
            [SampleInput(text="rain")] * 2, pipeline.settings(steps=1), generator=torch.Generator().manual_seed(5)
        )
        for _ in range(2)
    )

    assert [one.seed for one in first] == [one.seed for one in again]
    assert first[0].seed != first[1].seed
    np.testing.assert_array_equal(first[1].video, again[1].video)
    with pytest.raises(InputError, match="exclude each other"):
        pipeline(text="rain", seed=1, generator=torch.Generator())


def test_an_exported_folder_round_trips_and_gives_the_same_sample(
    pipeline: UniFormPipeline, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_diffusers(checkpoint, tmp_path / "first")
    export_diffusers(tmp_path / "first", tmp_path / "second")
    assert _contents(tmp_path / "first") == _contents(tmp_path / "second")

    use_cache(monkeypatch, tmp_path / "cache")
    put_in_cache(tmp_path / "cache", "lab/rain", tmp_path / "first")
    (tmp_path / "third").mkdir()
    save_model(tmp_path / "third" / "rain-v2.safetensors", *load_model(checkpoint))
    put_in_cache(tmp_path / "cache", "lab/one-file", tmp_path / "third")
    wanted = pipeline(text="rain", steps=1).video
    for name in (tmp_path / "first", "lab/rain", "lab/one-file/rain-v2.safetensors"):
        found = uniform.UniFormPipeline.from_pretrained(name, device="cpu", dtype=torch.float32)
        np.testing.assert_array_equal(found(text="rain", steps=1).video, wanted)


def test_a_pipeline_moves_to_a_device_and_says_where_it_is(pipeline: UniFormPipeline) -> None:
    assert pipeline.to("cpu") is pipeline
    assert pipeline.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "t2av needs a text"),
        ({"text": ""}, "the prompt is empty"),
        ({"text": ["a", "b"]}, "for many samples call batch"),
        ({"task": "t2v", "text": "a"}, "did you mean 't2av'"),
        ({"task": "a2v"}, "a2v needs an audio file"),
        ({"task": "a2v", "audio": "nowhere.wav"}, "nowhere.wav is not a file"),
        ({"task": "a2v", "video": "clip.mp4"}, "a2v takes no video"),
        ({"text": "a", "audio": "clip.mp4"}, "t2av takes no audio"),
        ({"task": "a2v", "audio": 3}, "audio is int; wanted a path or a NumPy array"),
        ({"task": "a2v", "audio": np.zeros(5, np.float32)}, r"float32 \(5,\); the model wants float32 \(32000,\)"),
        ({"task": "a2v", "audio": np.full(32_000, 9, np.float32)}, "peak of 9; full scale is 1.0"),
        ({"task": "a2v", "audio": np.full(32_000, np.nan, np.float32)}, "not finite"),
        ({"task": "v2a", "video": np.zeros((34, 64, 64, 3), np.float32)}, "the model wants uint8"),
        ({"task": "v2a", "video": CLIP.frames, "start_s": 1.0}, "cut the array instead"),
        ({"text": "a", "start_s": -1.0}, "the start is -1.0 s"),
        ({"text": "a", "solver": "dimm"}, "did you mean 'ddim'"),
        ({"text": "a", "solver": "euler"}, "does not fit"),
        ({"text": "a", "steps": 0}, "steps"),
        ({"text": "a", "guidance": 0.0}, "a guidance scale must be above 0"),
        ({"text": "a", "conditioning_guidance": 2.0}, "t2av has no conditioning modality"),
    ],
)
def test_bad_input_gives_one_clear_error(pipeline: UniFormPipeline, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        pipeline(**{"steps": 1, **arguments})  # type: ignore[arg-type]

    assert len(str(caught.value)) < 500


def test_a_text_file_as_audio_gives_one_clear_error(pipeline: UniFormPipeline, tmp_path: Path) -> None:
    (tmp_path / "notes.wav").write_text("these are words, not sound\n" * 50)

    with pytest.raises(InputError, match=r"notes.wav cannot be used .* a2v needs a file with audio"):
        pipeline("a2v", audio=tmp_path / "notes.wav", steps=1)
    with pytest.raises(InputError, match=r"notes.wav cannot be used .* v2a needs a file with video of at least 2 s"):
        pipeline("v2a", video=tmp_path / "notes.wav", steps=1)


def test_checkpoints_that_do_not_fit_give_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, metadata = small_model()
    (tmp_path / "notes.safetensors").write_text("words")
    save_model(tmp_path / "paper.safetensors", model, replace(metadata, spec=PAPER))
    cards = {kind: {**card, "fingerprint": "0" * 16} for kind, card in metadata.codecs.items() if kind != "texts"}
    save_model(tmp_path / "codec.safetensors", model, replace(metadata, codecs={**metadata.codecs, **cards}))
    use_cache(monkeypatch, tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    cases: list[tuple[object, type[UniformError], str]] = [
        (tmp_path / "notes.safetensors", CheckpointError, "no metadata of a UniForm checkpoint"),
        (tmp_path / "paper.safetensors", CheckpointError, "of another shape than its metadata"),
        (tmp_path / "codec.safetensors", SpecMismatchError, "the video codec does not belong here"),
        (tmp_path / "empty", CheckpointError, "neither a weight file"),
        (tmp_path / "nowhere" / "run", CheckpointError, "not found. Give a run directory"),
        ("lab/nowhere", CheckpointError, "no such file or folder here, and it cannot be had as a hub id"),
        ("lab/name/../../x.safetensors", CheckpointError, "not found"),
        ("toys", CheckpointError, "not found"),
    ]
    for path, error, message in cases:
        with pytest.raises(error, match=message):
            UniFormPipeline.from_pretrained(path)  # type: ignore[arg-type]
    good = tmp_path / "good.safetensors"
    save_model(good, model, metadata)
    with pytest.raises(InputError, match=r"dtype is torch.float16"):
        UniFormPipeline.from_pretrained(good, dtype=torch.float16)
    with pytest.raises(InputError, match="no codec for 'vidoe'"):
        UniFormPipeline.from_pretrained(good, codecs={"vidoe": {}})


def test_a_sample_is_not_saved_under_a_name_that_cannot_be_one(pipeline: UniFormPipeline, tmp_path: Path) -> None:
    sample = pipeline(text="rain", steps=1)

    for name, message in (("a.wav", "end in .mp4"), ("a" * 300, "not a name"), (".mp4", "not a name")):
        with pytest.raises(InputError, match=message):
            sample.save(tmp_path / name)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="the sample is still in memory"):
        sample.save(tmp_path / "file" / "a.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
