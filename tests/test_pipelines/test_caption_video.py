"""The model captioner as a stage: a tiny PLLaVA in the published layout, and new captions beside old latents."""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import uniform.captioning.pllava as pllava
from pipelines.brackets import InlineEngine, LogListener, Outcome, run_pipeline
from pipelines.clip import Clip
from pipelines.codec_bench import generated_clip
from pipelines.lint import require_sound
from pipelines.prepare import new_run, open_run
from pipelines.recipe import read_recipe
from pipelines.stage import Context
from pipelines.stages.caption_video import Stage
from tests.pllava_folder import plain_state, write_pllava, write_shards
from tests.test_pipelines.fakes import results
from uniform.avworld.write import write_world
from uniform.captioning.base import Answer, Decoding, Question
from uniform.codecs.base import open_text_codec
from uniform.errors import ConfigError
from uniform.latents.index import open_index
from uniform.latents.loader import Loader, LoaderConfig
from uniform.latents.mixture import Mixture, SourceConfig
from uniform.media.clipfile import write_clip
from uniform.spec import TOY

CAPTIONER = """
[[captioner]]
name = "small"
backend = "pllava"
model = "{model}"
prompt = "short"
frames = 4
pooling = [4, 2, 2]
dtype = "float32"
batch_clips = 2
decoding = {{ max_new_tokens = 10, no_repeat_tokens = 1 }}
again = {{ max_new_tokens = 12, repetition_penalty = 1.3, no_repeat_tokens = 1 }}
"""
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
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as published: PEFT-wrapped shards."""
    return write_pllava(tmp_path_factory.mktemp("pllava"))


@pytest.fixture(scope="module")
def captioner(model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("captioner") / "small.toml"
    path.write_text(CAPTIONER.format(model=model))
    return str(path)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world("w1", TOY, tmp_path_factory.mktemp("world"), train_clips=4, test_clips=1, seed=3)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [generated_clip(number, TOY) for number in range(3)]


def stage(captioner: str, **options: object) -> Stage:
    values = {"captioner": captioner, "device": "cpu", "accept": ("caption_cut",), **options}
    return Stage(**values)  # type: ignore[arg-type]


def captioned(made: Stage, given: Sequence[Clip]) -> list[Clip]:
    return list(made.open(Context(spec=TOY))(iter(given)))


def recipe(folder: Path, *stages: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text('name = "small"\nspec = "toy"\nunit_clips = 3\n' + "".join(stages))
    return path


def test_clips_get_captions_that_say_how_they_were_made(captioner: str, clips: list[Clip]) -> None:
    found = captioned(stage(captioner), clips)

    assert [clip.verdict for clip in found] == [None] * 3
    for clip in found:
        assert len(clip["caption"].split()) > 3
        assert (clip["origin"], clip["attempt"] in (1, 2), clip["finish"]) == ("model", True, "length")
    assert [clip["caption"] for clip in captioned(stage(captioner), clips[1:2])] == [found[1]["caption"]]


def test_captions_depend_on_the_frames(captioner: str, clips: list[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        pllava.Pllava,
        "answer",
        lambda self, questions, decoding: [
            seen.append(q.picture) or Answer("A dog runs.", "stop", 3) for q in questions
        ],
    )

    captioned(stage(captioner), clips)

    assert [picture.shape for picture in seen] == [(4, 3, 56, 56)] * 3
    assert not torch.equal(seen[0], seen[1])


def test_a_refused_caption_leaves_by_its_code(captioner: str, clips: list[Clip]) -> None:
    (found,) = captioned(stage(captioner, accept=(), again=False, max_new_tokens=5), clips[:1])

    assert found.verdict is not None
    assert found.verdict.code in ("caption_cut", "caption_loop")
    assert "caption" not in found.fields


def test_memory_that_runs_out_halves_the_batch(
    captioner: str, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [clip["caption"] for clip in captioned(stage(captioner), clips)]
    answer, sizes = pllava.Pllava.answer, []

    def tight(self: pllava.Pllava, questions: Sequence[Question], decoding: Decoding) -> list[Answer]:
        sizes.append(len(questions))
        if len(questions) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer(self, questions, decoding)

    monkeypatch.setattr(pllava.Pllava, "answer", tight)

    found = captioned(stage(captioner), clips)

    assert [clip["caption"] for clip in found] == whole
    assert sizes[:2] == [2, 1]
    assert 2 not in sizes[1:]


def test_a_damaged_clip_leaves_and_the_others_stay(captioner: str, clips: list[Clip]) -> None:
    broken = Clip(clips[1].row).with_fields(mp4=clips[1]["mp4"][:500])

    found = captioned(stage(captioner), [clips[0], broken, clips[2]])

    assert [clip.verdict and clip.verdict.code for clip in found] == [None, "decode_corrupt", None]


def test_black_clips_and_clips_without_labels_are_answered_for(
    captioner: str, clips: list[Clip], tmp_path: Path
) -> None:
    write_clip(tmp_path / "black.mp4", np.zeros((34, 64, 64, 3), np.uint8), np.zeros(32_000, np.float32), 17, 16_000)
    black = Clip(clips[0].row).with_fields(mp4=(tmp_path / "black.mp4").read_bytes())

    (found,) = captioned(stage(captioner), [black])
    (unnamed,) = captioned(stage(captioner, prompt="scene_labels"), [black])

    assert found.verdict is None
    assert unnamed.verdict is not None
    assert unnamed.verdict.code == "caption_missing"


def test_five_thousand_labels_in_a_script_from_right_to_left_are_told_in_part(
    captioner: str, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = tuple(f"صوت {number} <image> {{label}}" for number in range(5_000))
    crowded = Clip(dataclasses.replace(clips[0].row, labels=labels), clips[0].fields)
    ask, asked = pllava.Pllava.answer, []

    def watched(self: pllava.Pllava, questions: Sequence[Question], decoding: Decoding) -> list[Answer]:
        asked.extend(questions)
        return ask(self, questions, decoding)

    monkeypatch.setattr(pllava.Pllava, "answer", watched)

    (found,) = captioned(stage(captioner, prompt="scene_labels"), [crowded])

    assert found.verdict is None
    assert asked[0].user.count("صوت") == 24
    assert "{label}" in asked[0].user
    assert stage(captioner, prompt="scene_labels").reads == ("labels",)
    assert stage(captioner).reads == ()


def test_frames_may_come_from_the_source_file(captioner: str, manifest: Path, tmp_path: Path) -> None:
    source = stage(captioner, frames_from="source", source_px=56)
    path = next(manifest.parent.glob("media-*/*.mp4"))
    clip = Clip(generated_clip(0, TOY).row).with_fields(source=str(path))

    (found,) = captioned(source, [clip])

    assert source.needs == ("source",)
    assert found.verdict is None
    assert found["caption"]
    assert source.provenance(TOY) != stage(captioner).provenance(TOY)


def test_what_changes_a_caption_changes_the_provenance_and_nothing_else_does(
    captioner: str, model: Path, tmp_path: Path
) -> None:
    plain = stage(captioner).provenance(TOY)

    for same in ({"batch_clips": 7}, {"set": "x"}, {"decode_threads": 3}, {"device": "auto"}):
        assert stage(captioner, **same).provenance(TOY) == plain
    for other in ({"prompt": "scene"}, {"frames": 3}, {"max_new_tokens": 9}, {"again": False}, {"most_words": 9}):
        assert stage(captioner, **other).provenance(TOY) != plain
    write_pllava(tmp_path / "other")
    write_shards(tmp_path / "other", plain_state())
    assert stage(captioner, model=str(tmp_path / "other")).provenance(TOY) != plain


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"set": "../x"}, r"caption_video\.set"),
        ({"accept": ("caption_cutt",)}, "did you mean 'caption_cut'"),
        ({"source_px": 100}, "multiple of 8"),
        ({"prompt": "scen"}, "did you mean 'scene'"),
        ({"frames": 0}, "frames is 0"),
    ],
)
def test_wrong_options_stop_before_anything_is_loaded(captioner: str, options: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        stage(captioner, **options)


def run(manifest: Path, path: Path, out: Path, until: str | None = None, replace: bool = False) -> Outcome:
    made = new_run([manifest], path, out)
    return run_pipeline(made, InlineEngine(), LogListener(), until=until, replace_stale=replace)


def digests(out: Path) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in results(out).items()}


@dataclass(frozen=True)
class Grown:
    """A run that got a second set of captions, and then that set anew."""

    out: Path
    outcomes: tuple[Outcome, ...]
    digests: tuple[dict[str, str], ...]


@pytest.fixture(scope="module")
def grown(captioner: str, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    folder = tmp_path_factory.mktemp("grown")
    out, outcomes, found = folder / "out", [], []
    for stages in ("", *(MODEL_STAGES.format(captioner=captioner, prompt=prompt) for prompt in ("short", "scene"))):
        outcomes.append(run(manifest, recipe(folder, STAGES, stages), out, replace=True))
        found.append(digests(out))
    return Grown(out, tuple(outcomes), tuple(found))


def test_a_second_set_of_captions_joins_and_a_new_prompt_touches_no_latent(grown: Grown) -> None:
    first, second, third = grown.digests

    kept = [name for name in first if name not in ("index.parquet", "card.json")]
    assert [outcome.indexed for outcome in grown.outcomes] == [5, 5, 5]
    assert [outcome.units_made for outcome in grown.outcomes] == [10, 4, 4]
    assert any(name.startswith("latents-") for name in kept)
    assert [second[name] for name in kept] == [third[name] for name in kept] == [first[name] for name in kept]
    changed = [name for name in second if name.startswith(("captions/model", "text-model"))]
    assert len(changed) == 4
    assert all(second[name] != third[name] for name in changed)


def test_index_and_card_tell_the_sets_apart(grown: Grown) -> None:
    index = open_index(grown.out)

    assert sorted(index.texts) == sorted(index.card.texts) == ["given", "model"]
    assert index.sets_without_gaps(["given", "model"]).all()
    made_by = index.card.texts["model"]["captions_made_by"]
    assert made_by["captioner"]["prompt"]["user"] == "Describe the video in detail."
    assert index.card.texts["given"]["captions"] != index.card.texts["model"]["captions"]
    assert require_sound(grown.out) == 5


def test_the_loader_draws_among_the_sets_by_weight(grown: Grown) -> None:
    codec = open_text_codec("bytes", TOY)
    told = {
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
            (name,) = [name for name in told if torch.equal(told[name][clip_id], text[mask])]
            drawn[name] += 1

    assert drawn["given"] > drawn["model"] > 0


def test_the_recipe_in_the_documents_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "captions.md").read_text()
    shown = re.search(r"^```toml\n(\[\[stage\]\].*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    assert shown is not None

    read = read_recipe(recipe(tmp_path, '[[stage]]\nuse = "fetch_media"\n[[stage]]\nuse = "clip_media"\n', shown[1]))

    assert read.givers("text-model")["caption"].name == "caption_video"
    assert read.givers("text-labels")["caption"].name == "caption-labels"


@pytest.mark.ray
def test_the_captioner_runs_until_its_stage_inline_and_on_ray_with_equal_bytes(
    captioner: str, manifest: Path, tmp_path: Path, ray_address: str
) -> None:
    from pipelines.runner import RayEngine

    path = recipe(tmp_path, STAGES, MODEL_STAGES.format(captioner=captioner, prompt="short"))
    here = run(manifest, path, tmp_path / "inline", until="caption-model")
    with RayEngine(workers=2) as engine:
        there = run_pipeline(new_run([manifest], path, tmp_path / "ray"), engine, LogListener(), until="caption-model")

    assert here.final == there.final
    assert here.final.kept == 5
    assert "captions/model/000000.parquet" in results(tmp_path / "inline")
    assert results(tmp_path / "inline") == results(tmp_path / "ray")
    assert open_run(tmp_path / "ray").recipe == read_recipe(path)
