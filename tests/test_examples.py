"""The scripts of examples/ work: run one after the other, as they stand, with smaller numbers."""

import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from uniform.media.clip_file import probe
from uniform.spec import TOY

EXAMPLES = ROOT / "examples"
ORDER = ("prepare_own_clips", "look_at_shards", "train_briefly", "sample")
SMALLER = {
    "CLIPS = 64": "CLIPS = 10",
    "STEPS = 300": "STEPS = 2",
    "STEPS = 30\n": "STEPS = 2\n",
    "data.global_batch=16": "data.global_batch=4",
}


def test_the_examples_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ORDER:
        text = (EXAMPLES / f"{name}.py").read_text()
        for big, small in SMALLER.items():
            text = text.replace(big, small)
        exec(compile(text, f"examples/{name}.py", "exec"), {"__name__": "__main__"})

    shown = capsys.readouterr().out
    assert "10 of 10 clips in shards/index.parquet" in shown
    assert "10 clips of spec 'toy' from my_clips" in shown
    assert "step 2, loss" in shown
    made = {path.stem for path in (tmp_path / "samples").glob("*.mp4")}
    assert made == {"ball", "text_0", "text_1", "from_audio", "from_video"}
    assert probe(tmp_path / "samples" / "ball.mp4").frames == TOY.frames
    assert (tmp_path / "preview" / "contact_sheet.png").stat().st_size > 1_000


def test_every_example_is_run_and_is_a_script_with_cells() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(ORDER)
    everything = ""
    for name in ORDER:
        text = (EXAMPLES / f"{name}.py").read_text()
        everything += text
        assert text.startswith("# %% [markdown]\n# # ")
        assert len(re.findall(r"^# %%$", text, flags=re.MULTILINE)) >= 2
    for big in SMALLER:
        assert big in everything, f"'{big}' is no longer in the examples"
