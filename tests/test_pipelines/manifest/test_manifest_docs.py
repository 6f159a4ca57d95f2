"""What the documents say of manifests is true: each TOML reads, each key is explained, the quick start runs."""

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from pipelines.manifest.dataset import ManifestTable, read_manifest
from pipelines.manifest.listing_schema import Columns, Events, LabelNames, Listing
from pipelines.recipe import read_recipe
from tests.support.paths import ROOT
from uniform.media.clip_file import write_clip

ADDING = (ROOT / "docs" / "adding_a_dataset.md").read_text()
KEYS = (ROOT / "data_manifests" / "README.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("text", blocks(ADDING, "toml"), ids=lambda text: text.split('"')[1])
def test_each_shown_manifest_reads(tmp_path: Path, text: str) -> None:
    (tmp_path / "shown.toml").write_text(text)

    assert read_manifest(tmp_path / "shown.toml").table.listing


def test_the_shown_fetch_options_are_options(tmp_path: Path) -> None:
    text = "".join(blocks((ROOT / "docs" / "datasets.md").read_text(), "toml"))  # later ones go on in the same stage
    (tmp_path / "cookies.txt").write_text("")
    text = text.replace("~/cookies.txt", str(tmp_path / "cookies.txt"))
    (tmp_path / "recipe.toml").write_text(f'name = "shown"\nspec = "toy"\nunit_clips = 8\n{text}')

    recipe = read_recipe(tmp_path / "recipe.toml")

    stage: Any = recipe.step("fetch_media").stage
    assert stage.hosts["youtube.com"].daily_requests == 4000
    assert stage.sites.extractor_args["youtube"]["po_token"] == "$YOUTUBE_PO_TOKEN"
    assert stage.sites.impersonate == "chrome"


@pytest.mark.parametrize("table", [ManifestTable, Listing, Columns, LabelNames, Events])
def test_every_key_is_explained(table: type) -> None:
    assert dataclasses.fields(table)
    for field in dataclasses.fields(table):
        assert f"`{field.name}`" in KEYS, f"data_manifests/README.md does not explain '{field.name}'"


def test_the_quick_start_for_own_clips_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time_s = np.arange(48_000) / 16_000
    tone = (0.2 * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)
    frames = np.full((51, 64, 96, 3), 30, dtype=np.uint8)
    for number in range(51):
        frames[number, 20:40, number : number + 20] = 200
    for name in ("dog/barking_1.mp4", "rain/roof.mp4"):
        write_clip(tmp_path / "videos" / name, frames, tone, 17, 16_000, audio_codec="aac")
    (tmp_path / "my_clips.toml").write_text(blocks(ADDING, "toml")[0])
    monkeypatch.chdir(tmp_path)

    for line in blocks(ADDING, "bash")[0].splitlines():
        words = shlex.split(line)[1:]
        if words[:2] == ["pipeline", "run"]:
            words.append("--inline")  # the same work, without starting a cluster for a test
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, f"{line}\n{result.output}"

    assert (tmp_path / "run" / "index.parquet").exists()
