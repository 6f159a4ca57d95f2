"""docs/python_api.md works: its Python blocks are run as they stand, in order, with smaller numbers."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import uniform
from tests.support.paths import ROOT
from tests.support.shard_folder import write_shard_folder
from tests.support.small_sampler import CLIP, small_model, write_conditioning_clip
from uniform.codecs.base import open_text_codec, open_video_codec
from uniform.media.clip_file import write_clip
from uniform.model.checkpoint import save_model
from uniform.spec import TOY

PAGE = ROOT / "docs" / "python_api.md"
SMALLER = {
    'from_pretrained("run", device="auto")': 'from_pretrained("run/model.safetensors", device="cpu")',
    "steps=20": "steps=2",
    "steps=10": "steps=1",
    "range(20)": "range(2)",
    "depth=2, width=64": "depth=1, width=32",
}


def blocks(page: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)


def test_every_example_of_the_page_runs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    save_model(tmp_path / "run" / "model.safetensors", *small_model())
    write_conditioning_clip(tmp_path)
    cards = {
        "video_card": open_video_codec("dct", TOY).card,
        "text_card": open_text_codec("bytes", TOY).card,
        "audio_card": uniform.open_audio_codec("dct", TOY).card,
    }
    write_shard_folder(tmp_path / "shards", clips=18, unit_clips=5, splits={"train": 16, "test": 2}, **cards)
    for name in ("ball", "text_0", "text_1"):
        write_clip(tmp_path / "real" / f"{name}.mp4", CLIP.frames, CLIP.waveform, TOY.fps, TOY.rate_hz)
    names: dict[str, Any] = {"__name__": "example"}
    torch.manual_seed(0)

    for number, block in enumerate(blocks(PAGE.read_text())):
        for big, small in SMALLER.items():
            block = block.replace(big, small)
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)

    shown = capsys.readouterr().out
    assert f"({TOY.frames}, 64, 64, 3) 17" in shown
    assert "the prompt is empty" in shown
    made = {path.stem for path in (tmp_path / "samples").glob("*.mp4")}
    assert made == {"ball", "text_0", "text_1"}
    trained = uniform.UniFormPipeline.from_pretrained("plain.safetensors", device="cpu")
    assert trained(text="rain", steps=1).video.shape == (TOY.frames, 64, 64, 3)


def test_the_smaller_numbers_still_stand_in_the_page() -> None:
    text = "".join(blocks(PAGE.read_text()))
    assert len(blocks(PAGE.read_text())) >= 9
    for big in SMALLER:
        assert big in text, f"'{big}' is no longer in the page"


def test_the_python_example_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    save_model(tmp_path / "run" / "model.safetensors", *small_model())
    (example,) = blocks((ROOT / "README.md").read_text())

    assert len([line for line in example.splitlines() if line]) == 5
    exec(compile(example.replace('"run"', '"run/model.safetensors"'), "README.md", "exec"), {"__name__": "example"})
    assert (tmp_path / "rain.mp4").stat().st_size > 1_000
    assert (tmp_path / "rain.wav").stat().st_size > 1_000
    assert "(34, 64, 64, 3)" in capsys.readouterr().out


def test_every_name_of_the_api_is_in_the_page_and_loads() -> None:
    page = PAGE.read_text()
    for name in uniform.__all__:
        assert getattr(uniform, name) is not None
        assert name == "__version__" or name in page, f"{name} is not in docs/python_api.md"
    assert set(uniform.__all__) <= set(dir(uniform))
    with pytest.raises(AttributeError, match="no attribute 'UniformPipeline'"):
        uniform.UniformPipeline  # noqa: B018
