"""Whole runs with a model captioner: new captions beside old latents, inline and on Ray."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from pipelines.recipe import read_recipe
from pipelines.run.job import new_run, open_run
from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from tests.support.fake_stages import results
from tests.support.paths import ROOT
from tests.support.pllava_folder import write_pllava
from tests.support.tiny_captioner import write_captioner
from uniform.codecs.base import open_text_codec
from uniform.latents.batches.mixture import Mixture, SourceConfig
from uniform.latents.loader.loader import Loader, LoaderConfig
from uniform.latents.shards.index import open_index
from uniform.latents.shards.lint import require_sound
from uniform.spec import TOY
from uniform.synthetic.write import write_world

STAGES = """
[[stage]]
use = "fetch_media"
[[stage]]
use = "clip_media"
[[stage]]
use = "caption"
as = "caption-given"
set = "given"
source = "given"
[[stage]]
use = "encode_text"
as = "text-given"
set = "given"
[[stage]]
use = "encode_latents"
"""
MODEL_STAGES = """
[[stage]]
use = "caption_video"
as = "caption-model"
set = "model"
captioner = "{captioner}"
prompt = "{prompt}"
accept = ["caption_cut"]
device = "cpu"
[[stage]]
use = "encode_text"
as = "text-model"
set = "model"
"""


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("captioner")
    return write_captioner(folder / "small.toml", write_pllava(folder / "pllava"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world("w1", TOY, tmp_path_factory.mktemp("world"), train_clips=4, test_clips=1, seed=3)


def recipe(folder: Path, *stages: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text('name = "small"\nspec = "toy"\nunit_clips = 3\n' + "".join(stages))
    return path


def run(manifest: Path, path: Path, out: Path, until: str | None = None, replace: bool = False) -> Any:
    made = new_run([manifest], path, out)
    return run_pipeline(made, InlineBackend(), LogListener(), until=until, replace_stale=replace)


def digests(out: Path) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in results(out).items()}


@dataclass(frozen=True)
class Grown:
    """A run that got a second set of captions, and then that set anew."""

    out: Path
    results: tuple[Any, ...]
    digests: tuple[dict[str, str], ...]


@pytest.fixture(scope="module")
def grown(captioner: str, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    folder = tmp_path_factory.mktemp("grown")
    out, made, found = folder / "out", [], []
    for stages in ("", *(MODEL_STAGES.format(captioner=captioner, prompt=prompt) for prompt in ("short", "scene"))):
        made.append(run(manifest, recipe(folder, STAGES, stages), out, replace=True))
        found.append(digests(out))
    return Grown(out, tuple(made), tuple(found))


def test_a_second_caption_set_and_a_new_prompt_change_no_latent(grown: Grown) -> None:
    first, second, third = grown.digests

    kept = [name for name in first if name not in ("index.parquet", "card.json")]
    assert [result.indexed for result in grown.results] == [5, 5, 5]
    assert [result.units_made for result in grown.results] == [10, 4, 4]
    assert any(name.startswith("latents-") for name in kept)
    assert [second[name] for name in kept] == [third[name] for name in kept] == [first[name] for name in kept]
    changed = [name for name in second if name.startswith(("captions/model", "text-model"))]
    assert len(changed) == 4
    assert all(second[name] != third[name] for name in changed)


def test_index_and_card_hold_both_caption_sets(grown: Grown) -> None:
    index = open_index(grown.out)

    assert sorted(index.texts) == sorted(index.card.texts) == ["given", "model"]
    assert index.has_text(["given", "model"]).all()
    made_by = index.card.texts["model"]["captions_made_by"]
    assert made_by["captioner"]["prompt"]["user"] == "Describe the video in detail."
    assert index.card.texts["given"]["captions"] != index.card.texts["model"]["captions"]
    assert require_sound(grown.out) == 5


def test_the_loader_draws_among_the_sets_by_weight(grown: Grown) -> None:
    codec = open_text_codec("bytes", TOY)
    features = {
        name: {
            row["clip_id"]: codec.encode([row["caption"]])[0].half().float()
            for row in pq.read_table(grown.out / "captions" / name).to_pylist()
        }
        for name in ("given", "model")
    }
    source = SourceConfig(folder=grown.out, captions=("given", "model"), caption_weights=(3.0, 1.0))
    loader = Loader(Mixture([source], seed=5), LoaderConfig(global_batch=4))

    drawn = {"given": 0, "model": 0}
    for step in range(16):
        (batch,) = loader.read(step)
        for clip_id, text, mask in zip(batch.clip_ids, batch.text, batch.text_mask, strict=True):
            (name,) = [name for name in features if torch.equal(features[name][clip_id], text[mask])]
            drawn[name] += 1

    assert drawn["given"] > drawn["model"] > 0


def test_the_recipe_in_the_docs_can_be_read(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "captions.md").read_text()
    shown = re.search(r"^```toml\n(\[\[stage\]\].*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    assert shown is not None

    read = read_recipe(recipe(tmp_path, '[[stage]]\nuse = "fetch_media"\n[[stage]]\nuse = "clip_media"\n', shown[1]))

    assert read.producers("text-model")["caption"].name == "caption_video"
    assert read.producers("text-labels")["caption"].name == "caption-labels"


@pytest.mark.ray
def test_the_captioner_runs_until_its_stage_inline_and_on_ray_with_equal_bytes(
    captioner: str, manifest: Path, tmp_path: Path, ray_address: str
) -> None:
    from pipelines.cluster.backend import RayBackend

    path = recipe(tmp_path, STAGES, MODEL_STAGES.format(captioner=captioner, prompt="short"))
    here = run(manifest, path, tmp_path / "inline", until="caption-model")
    with RayBackend(workers=2) as engine:
        there = run_pipeline(new_run([manifest], path, tmp_path / "ray"), engine, LogListener(), until="caption-model")

    assert here.final == there.final
    assert here.final.kept == 5
    assert "captions/model/000000.parquet" in results(tmp_path / "inline")
    assert results(tmp_path / "inline") == results(tmp_path / "ray")
    assert open_run(tmp_path / "ray").recipe == read_recipe(path)
