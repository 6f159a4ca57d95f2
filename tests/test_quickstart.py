"""The quickstart works: its commands are run as they stand, in order, with smaller numbers."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.support.paths import ROOT
from uniform.media.clip_file import probe
from uniform.spec import TOY

PAGE = ROOT / "docs" / "quickstart.md"
SMALLER = {
    "--clips 160": "--clips 32",
    "--workers 2": "--inline",
    "run --dry-run": "run --dry-run steps=1",
    "train --out run": "train --out run steps=1",
    "-n 4": "-n 1 --steps 2",
    "--task a2v": "--task a2v --steps 2",
    "--task v2a": "--task v2a --steps 2",
}


def _lines() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_every_command_of_the_quickstart_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    clip = ""
    for line in _lines():
        if line.startswith("CLIP="):
            clip = str(sorted(Path().glob("world/media-*/*.mp4"))[-1])
            continue
        for big, small in SMALLER.items():
            line = line.replace(big, small)
        words = shlex.split(line.replace("$CLIP", clip))
        assert words[0] == "uniform", line

        result = CliRunner().invoke(app, words[1:])

        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
    for sample in ("t2av", "a2v", "v2a"):
        assert probe(Path(f"samples/{sample}.mp4")).frames == TOY.frames
    assert Path("run/curve.png").stat().st_size > 1_000
    assert Path("preview/contact_sheet.png").stat().st_size > 1_000


def test_the_smaller_numbers_still_stand_in_the_page() -> None:
    for big in SMALLER:
        assert any(big in line for line in _lines()), f"'{big}' is no longer in the quickstart"
