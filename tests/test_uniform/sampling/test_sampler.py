import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support.small_sampler import CLIP, small_model, write_conditioning_clip, write_model
from uniform.atomic import write_bytes
from uniform.diffusion.guidance import Guidance
from uniform.errors import InputError, SpecMismatchError
from uniform.media.clip_file import probe, write_clip
from uniform.media.sandbox import Loaded, MediaSandbox
from uniform.model.checkpoint import save_model
from uniform.sampling.open import open_sampler, sample_config
from uniform.sampling.request import Request, numbered_requests
from uniform.sampling.sampler import SampleConfig, Sampler
from uniform.spec import TOY
from uniform.tasks import Task

FAST = SampleConfig(solver="ddim", steps=2, guidance=Guidance(video=2.0, audio=2.0))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def sampler(checkpoint: Path) -> Sampler:
    return open_sampler(checkpoint)


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conditioning_clip(tmp_path_factory.mktemp("conditioning"))


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


def test_a_conditioning_audio_is_unchanged_in_the_sample(sampler: Sampler, clip_file: Path, tmp_path: Path) -> None:
    sampler.run([Request(name="a", task=Task.A2V, media=clip_file)], tmp_path, FAST)

    with MediaSandbox() as sandbox:
        written = sandbox.load(tmp_path / "a.wav", TOY, want_video=False).waveform
        original = sandbox.load(clip_file, TOY, want_video=False).waveform
    assert written is not None
    assert original is not None
    np.testing.assert_allclose(written, original, atol=1.5 / 32_767)


def test_a_conditioning_video_is_unchanged_in_the_sample(sampler: Sampler, clip_file: Path, tmp_path: Path) -> None:
    sampler.run([Request(name="a", task=Task.V2A, media=clip_file)], tmp_path, FAST)

    with MediaSandbox() as sandbox:
        written = sandbox.load(tmp_path / "a.mp4", TOY, want_audio=False).frames
        original = sandbox.load(clip_file, TOY, want_audio=False).frames
    assert written is not None
    assert original is not None
    error = (written.astype(float) - original.astype(float)) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 38  # H.264 twice and 4:2:0 in between; the codec gives under 30


def test_a_stopped_run_resumes_to_the_same_bytes(
    sampler: Sampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = numbered_requests(Request(name="a", task=Task.T2AV, text="a red ball"), 3)
    config = replace(FAST, batch_clips=2, keep_latents=True)
    whole = sampler.run(requests, tmp_path / "whole", config)

    def killed(path: Path, content: bytes) -> None:
        if path.name == "a-001.json":
            raise KeyboardInterrupt
        write_bytes(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("uniform.sampling.render.write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            sampler.run(requests, tmp_path / "stopped", config)
    assert (tmp_path / "stopped" / "a-001.mp4").exists()

    reported: list[int] = []
    sampler.run(requests, tmp_path / "stopped", config, lambda progress: reported.append(progress.done))

    assert _contents(tmp_path / "stopped") == _contents(tmp_path / "whole")
    assert reported[-1] == 3
    assert [path.name for path in whole] == ["a-000.mp4", "a-001.mp4", "a-002.mp4"]
    assert load_file(tmp_path / "whole" / "a-000.safetensors")["video"].shape == TOY.video_latent


def test_finished_samples_are_kept(sampler: Sampler, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("suffix", [".mp4", ".wav", ".png", ".json", ".safetensors"])
def test_a_file_of_that_name_that_is_not_a_sample_is_not_overwritten(
    sampler: Sampler, tmp_path: Path, suffix: str
) -> None:
    (tmp_path / f"a{suffix}").write_text("[1]")

    with pytest.raises(InputError, match=rf"a{re.escape(suffix)} exists already and is not a sample\. Nothing is"):
        sampler.run([Request(name="a", task=Task.T2AV, text="a red ball")], tmp_path, FAST)

    assert [path.read_text() for path in tmp_path.iterdir()] == ["[1]"]


def test_the_conditioning_file_is_not_overwritten_by_its_own_sample(sampler: Sampler, clip_file: Path) -> None:
    before = clip_file.read_bytes()

    with pytest.raises(InputError, match="Nothing is overwritten"):
        sampler.run([Request(name=clip_file.stem, task=Task.V2A, media=clip_file)], clip_file.parent, FAST)

    assert clip_file.read_bytes() == before


def test_latents_can_be_added_to_a_finished_sample(sampler: Sampler, tmp_path: Path) -> None:
    request = Request(name="a", task=Task.T2AV, text="a red ball")
    sampler.run([request], tmp_path, FAST)
    before = _contents(tmp_path)

    sampler.run([request], tmp_path, replace(FAST, keep_latents=True))

    after = _contents(tmp_path)
    assert after.pop("a.safetensors")
    assert after == before


def test_one_unusable_file_does_not_stop_the_other_samples(sampler: Sampler, clip_file: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    files = {"one": clip_file, "two": tmp_path / "broken.mp4", "three": clip_file}
    requests = [Request(name=name, task=Task.V2A, media=file) for name, file in files.items()]

    for _ in range(2):  # the second run refuses the same file and makes nothing new
        with pytest.raises(InputError, match=r"2 of 3 samples are made; .*\n +two: .*broken\.mp4 cannot be used"):
            sampler.run(requests, tmp_path / "out", FAST)

    assert sorted(path.stem for path in (tmp_path / "out").glob("*.mp4")) == ["one", "three"]


def test_a_text_that_is_too_long_is_cut_with_a_note(
    sampler: Sampler, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fits, cut, far_too_long = "a " * 32, "a " * 33, "word " * 20_000
    texts = {"fits": fits, "cut": cut, "far": far_too_long}

    sampler.run([Request(name=name, task=Task.T2AV, text=text) for name, text in texts.items()], tmp_path, FAST)

    notes = {name: json.loads((tmp_path / f"{name}.json").read_text())["notes"] for name in texts}
    expected = ["the text is longer than 32 tokens; only its beginning is used"]
    assert notes == {"fits": [], "cut": expected, "far": expected}
    assert [record.message for record in caplog.records] == [f"{name}: {expected[0]}" for name in ("cut", "far")]


def test_output_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    model, metadata = small_model(step=7)
    with torch.no_grad():
        model.final_layer.linear.bias.fill_(float("nan"))
    save_model(tmp_path / "m.safetensors", model, metadata)
    sampler = open_sampler(tmp_path / "m.safetensors")

    with pytest.raises(InputError, match=r"a: the output of the network is not finite .*m\.safetensors at step 7"):
        sampler.run([Request(name="a", task=Task.T2AV, text="a ball")], tmp_path / "out", FAST)

    assert not (tmp_path / "out").exists()


def test_bfloat16_samples_are_nearly_the_same_and_have_another_mark(tmp_path: Path) -> None:
    model, metadata = small_model()
    torch.nn.init.normal_(model.final_layer.linear.weight, std=0.1)
    checkpoint = tmp_path / "m.safetensors"
    save_model(checkpoint, model, metadata)
    request = Request(name="a", task=Task.T2AV, text="a red ball")
    config = replace(FAST, keep_latents=True)
    for precision in ("fp32", "bf16"):
        open_sampler(checkpoint, precision=precision).run([request], tmp_path / precision, config)

    exact, rough = (load_file(tmp_path / name / "a.safetensors")["audio"] for name in ("fp32", "bf16"))
    assert 0 < (exact - rough).abs().max() < 0.1
    with pytest.raises(InputError, match="made with another request, setting"):
        open_sampler(checkpoint, precision="bf16").run([request], tmp_path / "fp32", config)


def test_guidance_by_the_conditioning_modality_is_refused_in_t2av(
    sampler: Sampler, clip_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(FAST, guidance=Guidance(video=1.0, audio=1.0, conditioning=2.0))

    with pytest.raises(InputError, match="t2av has no conditioning modality"):
        sampler.run([Request(name="a", task=Task.T2AV, text="a ball")], tmp_path, config)
    sampler.run([Request(name="b", task=Task.V2A, media=clip_file)], tmp_path, config)

    assert "not trained with diffusion.independent_timesteps" in caplog.text


def test_a_file_that_consecutive_requests_share_is_read_once(
    sampler: Sampler, clip_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []

    class Counting(MediaSandbox):
        def load(self, path: Path, *arguments: Any, **options: Any) -> Loaded:
            loaded.append(path)
            return super().load(path, *arguments, **options)

    monkeypatch.setattr("uniform.sampling.sampler.MediaSandbox", Counting)

    sampler.run(numbered_requests(Request(name="a", task=Task.V2A, media=clip_file), 3), tmp_path, FAST)

    assert loaded == [clip_file]


def test_a_file_without_audio_is_refused_by_name(sampler: Sampler, tmp_path: Path) -> None:
    write_clip(tmp_path / "mute.mp4", CLIP.frames, None, TOY.fps, TOY.rate_hz)

    with pytest.raises(InputError, match=r"mute\.mp4 cannot be used \(no_audio"):
        sampler.run([Request(name="a", task=Task.A2V, media=tmp_path / "mute.mp4")], tmp_path / "out", FAST)

    assert not (tmp_path / "out").exists()


def test_audio_that_ends_early_is_padded_with_silence_and_a_note(sampler: Sampler, tmp_path: Path) -> None:
    write_clip(tmp_path / "short.mp4", CLIP.frames[:17], CLIP.waveform[:16_000], TOY.fps, TOY.rate_hz)

    sampler.run([Request(name="a", task=Task.A2V, media=tmp_path / "short.mp4")], tmp_path, FAST)

    assert probe(tmp_path / "a.mp4").frames == TOY.frames
    assert json.loads((tmp_path / "a.json").read_text())["notes"] == ["audio ends 1,000 ms early"]


def test_default_steps_come_from_the_solver_and_for_flow_from_the_model(sampler: Sampler) -> None:
    flow = replace(sampler, origin={**sampler.origin, "objective": "flow", "flow_steps": 12})

    assert sample_config(flow, None, None).solver == "euler"
    assert [sample_config(flow, name, None).steps for name in (None, "heun")] == [12, 12]
    assert [sample_config(sampler, name, None).steps for name in (None, "ddim", "dpm++", "ancestral")] == [
        *(50, 50, 20, 100),
    ]
    assert sample_config(flow, None, 7).steps == 7


def test_a_codec_with_another_fingerprint_is_refused(tmp_path: Path) -> None:
    model, metadata = small_model()
    altered = {**metadata.codecs, "video": {**metadata.codecs["video"], "code_version": 99, "fingerprint": "0000"}}
    save_model(tmp_path / "m.safetensors", model, replace(metadata, codecs=altered))

    with pytest.raises(SpecMismatchError, match=r"code_version +1 +99"):
        open_sampler(tmp_path / "m.safetensors")
