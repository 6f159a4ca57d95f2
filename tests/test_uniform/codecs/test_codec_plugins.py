"""Codecs of others: found by import path and entry point, checked, used, and never imported because a file says so."""

import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import uniform
from cli.main import app
from tests.support.small_sampler import CLIP, small_model
from uniform.api.pipeline import UniFormPipeline
from uniform.codecs import plugins
from uniform.codecs.conformance import check_codec
from uniform.errors import ConfigError
from uniform.model.checkpoint import save_model
from uniform.spec import TOY

OWN = "tests.support.own_codecs"
VIDEO = f"{OWN}:MeanVideo"


def test_a_codec_is_opened_by_import_path_with_its_options() -> None:
    codec = uniform.open_video_codec(VIDEO, TOY, gain=2.0, device="cpu")
    latents = codec.encode(torch.from_numpy(CLIP.frames)[None])

    assert tuple(latents.shape[1:]) == TOY.video_latent
    assert (codec.card.name, codec.card.settings) == (VIDEO, {"gain": 2.0})
    assert uniform.open_audio_codec(f"{OWN}:open_audio", TOY).card.name == f"{OWN}:open_audio"
    assert uniform.open_text_codec(f"{OWN}:open_text", TOY).width == 64


def test_a_codec_is_opened_by_the_entry_point_of_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("video.mean", VIDEO, plugins.GROUP),
        EntryPoint("audio.other", f"{OWN}:open_audio", plugins.GROUP),
        EntryPoint("video.dct", f"{OWN}:open_half", plugins.GROUP),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point for point in points if point.group == group])

    assert uniform.open_video_codec("mean", TOY).card.name == "mean"
    assert type(uniform.open_video_codec("dct", TOY)).__name__ == "DctVideo", "built-in names cannot be replaced"
    with pytest.raises(ConfigError, match=r"there is no video codec 'other'.*known: dct, mean, opensora"):
        uniform.open_video_codec("other", TOY)
    points.append(EntryPoint("video.mean", f"{OWN}:open_half", plugins.GROUP))
    with pytest.raises(ConfigError, match="registered by several packages"):
        uniform.open_video_codec("mean", TOY)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{OWN}:open_nothing", "cannot be imported"),
        ("no_such_package:open", "Is its package installed"),
        (f"{OWN}:NOT_A_FACTORY", "is int, not callable"),
        (f"{OWN}:open_half", "returned Half, which lacks decode"),
        (f"{OWN}:open_misnamed", "its card is of 'dct'; wanted a CodecCard whose name is"),
        ("a b:c", "not an import path"),
        ("..:c", "not an import path"),
        ("a:b.c", "not an import path"),
        ("dtc", "did you mean 'dct'"),
    ],
)
def test_a_codec_that_cannot_be_used_is_refused_with_one_clear_error(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        uniform.open_video_codec(name, TOY)


def test_an_unknown_option_of_an_own_codec_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no option 'gian'"):
        uniform.open_video_codec(VIDEO, TOY, gian=2.0)


def test_a_checkpoint_never_chooses_code_to_import(tmp_path: Path) -> None:
    model, metadata = small_model()
    (tmp_path / "evil_codec.py").write_text("raise SystemExit('imported')\n")
    sys.path.insert(0, str(tmp_path))
    try:
        card = {**metadata.codecs["video"], "name": "evil_codec:open"}
        path = tmp_path / "model.safetensors"
        save_model(path, model, replace(metadata, codecs={**metadata.codecs, "video": card}))

        with pytest.raises(ConfigError, match="a file must not choose code to run"):
            UniFormPipeline.from_pretrained(path)
        with pytest.raises(ConfigError, match="a file must not choose code to run"):
            UniFormPipeline.from_pretrained(path, codecs={"video": {"trust": VIDEO}})
        assert "evil_codec" not in sys.modules
    finally:
        sys.path.remove(str(tmp_path))


def test_a_checkpoint_of_a_trusted_own_codec_is_sampled(tmp_path: Path) -> None:
    model, metadata = small_model()
    card = uniform.open_video_codec(VIDEO, TOY).card.as_dict()
    path = tmp_path / "model.safetensors"
    save_model(path, model, replace(metadata, codecs={**metadata.codecs, "video": card}))

    pipeline = UniFormPipeline.from_pretrained(path, codecs={"video": {"trust": VIDEO}})
    sample = pipeline("v2a", video=CLIP.frames, steps=1)
    words = ["sample", "-c", str(path), "--text", "rain", "--steps", "1", "--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, words)
    made = CliRunner().invoke(app, [*words, "--codec", f"video.trust={VIDEO}"])

    assert sample.video.shape == CLIP.frames.shape
    assert (refused.exit_code, made.exit_code) == (1, 0), made.output
    assert f"--codec video.trust={VIDEO}" in refused.stderr.replace("\n", "")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (VIDEO, None),
        (f"{OWN}:open_audio", None),
        (f"{OWN}:open_text", None),
        ("dct", "video"),
        ("dct", "audio"),
        ("bytes", "text"),
    ],
)
def test_codecs_that_keep_the_interface_pass_the_conformance_test(name: str, kind: str | None) -> None:
    result = check_codec(name, TOY, kind)

    assert result.passed, [check for check in result.checks if check.problem]
    assert len(result.checks) >= 8


def test_each_broken_promise_is_named_by_the_command() -> None:
    result = CliRunner().invoke(app, ["codec", "check", f"{OWN}:open_careless"])

    assert result.exit_code == 1
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAILED")]
    assert any("float32 latents in the shape of the spec" in line for line in failed)
    assert any("encoding twice gives the same bytes" in line for line in failed)
    assert any("encode leaves its input unchanged" in line for line in failed)
    good = CliRunner().invoke(app, ["codec", "check", VIDEO, "--kind", "video", "--codec", "video.gain=0.5"])
    assert good.exit_code == 0, good.output
    assert "FAILED" not in good.stdout
    assert CliRunner().invoke(app, ["codec", "check", VIDEO, "--kind", "vidoe"]).exit_code == 1
