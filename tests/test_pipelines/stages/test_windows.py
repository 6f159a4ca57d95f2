"""Windows of long clips, from media to batch: a clip is encoded once, and each window is its own sample."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from cli.main import app
from pipelines.clip import Clip
from pipelines.stage import Context
from pipelines.stages import check, clip_media, encode_latents
from tests.support.fake_stages import rows
from tests.support.paths import ROOT
from tests.support.shard_folder import change_card
from uniform.codecs.base import open_audio_codec, open_video_codec
from uniform.errors import ConfigError, SpecMismatchError
from uniform.latents.batches.batch import Batch
from uniform.latents.batches.mixture import Mixture, SourceConfig
from uniform.latents.loader.loader import Loader, LoaderConfig
from uniform.latents.shards.lint import problems_of
from uniform.latents.shards.tar import walk
from uniform.media.clip_file import probe, read_clip
from uniform.spec import TOY, Spec, long_spec
from uniform.synthetic.write import write_world

WINDOWS = 3
LONG = long_spec(TOY, WINDOWS)
SEED = 5


def uniform(*words: object) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of 4 s, each three windows of the toy spec's 2 s."""
    root = tmp_path_factory.mktemp("windows")
    manifest = write_world("w1", LONG, root / "world", train_clips=4, test_clips=0, seed=3)
    recipe = (ROOT / "data_manifests" / "recipes" / "toy.toml").read_text()
    for stage in ("clip_media", "encode_latents"):
        recipe = recipe.replace(f'use = "{stage}"', f'use = "{stage}"\nwindows = {WINDOWS}')
    (root / "recipe.toml").write_text(recipe)
    uniform("pipeline", "run", manifest, "--recipe", root / "recipe.toml", "--out", root / "run", "--inline")
    return root / "run"


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor]]:
    """The raw latents of every window, each cut out of its clip and encoded by itself."""
    video, audio = open_video_codec("dct", TOY), open_audio_codec("dct", TOY)
    found = {}
    for entry in walk(folder / "clips-000000.tar"):
        frames, sound = (torch.from_numpy(media) for media in read_clip(entry.content, LONG))
        for second in range(WINDOWS):
            picture = frames[17 * second : 17 * second + TOY.frames]
            wave = sound[16_000 * second : 16_000 * second + TOY.samples]
            latents = video.encode(picture[None])[0].half(), audio.encode(wave[None])[0].half()
            found[entry.name.split(".")[0], second] = latents
    return found


def loader(folder: Path, windows: str = "all", **options: object) -> Loader:
    mixture = Mixture([SourceConfig(folder=folder, windows=windows)], seed=SEED)  # type: ignore[arg-type]
    split = {name: options.pop(name) for name in ("rank", "processes") if name in options}
    return Loader(mixture, LoaderConfig(**{"global_batch": 4, **options}), **split)  # type: ignore[arg-type]


def same(one: Batch, two: Batch) -> bool:
    return one.clip_ids == two.clip_ids and all(map(torch.equal, one.clean, two.clean))


def test_a_long_clip_is_one_member_whose_slices_are_the_latents_of_its_windows(
    folder: Path, alone: dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor]]
) -> None:
    arrays = {
        entry.name: np.load(io.BytesIO(entry.content), allow_pickle=False)
        for entry in walk(folder / "latents-000000.tar")
        if entry.name.endswith(".npy")
    }

    assert len(alone) == 4 * WINDOWS
    for (clip_id, second), (video, audio) in alone.items():
        found = arrays[f"{clip_id}.video.npy"], arrays[f"{clip_id}.audio.npy"]
        assert [array.shape for array in found] == [(4, 20, 8, 8), (8, WINDOWS, 50, 4)]
        assert np.array_equal(found[0][:, 5 * second : 5 * second + 10], video.numpy())
        assert np.array_equal(found[1][:, second], audio.numpy())


def test_card_index_and_metadata_hold_the_length_of_the_clips(folder: Path) -> None:
    metadata = json.loads(next(e.content for e in walk(folder / "latents-000000.tar") if e.name.endswith(".json")))

    assert json.loads((folder / "card.json").read_text())["windows"] == WINDOWS
    assert set(pq.read_table(folder / "index.parquet")["frames"].to_pylist()) == {LONG.frames}
    assert (metadata["windows"], metadata["duration_ms"]) == (WINDOWS, 4000)
    assert f"{WINDOWS} windows in each clip" in uniform("shards", "info", folder)
    assert "4 clips, no problem found" in uniform("shards", "lint", folder)


def test_lint_finds_a_card_of_another_number_of_windows(folder: Path, tmp_path: Path) -> None:
    for path in [*folder.glob("*.tar"), folder / "index.parquet"]:
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "card.json").write_bytes((folder / "card.json").read_bytes())
    change_card(tmp_path, windows=2)

    found = "\n".join(map(str, problems_of(tmp_path)))

    assert "has shape (4, 20, 8, 8); the card's spec 'toy' wants (4, 15, 8, 8)" in found
    assert "has shape (8, 3, 50, 4); the card's spec 'toy' wants (8, 2, 50, 4)" in found
    assert "has 3 windows; the card says 2" in found
    assert "names clips of [68] frames; the card's spec and windows make 51" in found


@pytest.mark.parametrize("residency", ["disk", "ram", "gpu"])
def test_every_window_is_drawn_and_each_is_the_exact_one(
    folder: Path, alone: dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor]], residency: str
) -> None:
    whole, drawn = loader(folder, residency=residency), set()

    for step in range(8):
        plan = whole.mixture.span(4 * step, 4)
        names, raw = whole.clip_ids(step), whole.raw(plan)
        for slot, window in enumerate(plan.window.tolist()):
            video, audio = alone[names[slot], window]
            assert torch.equal(raw.video[slot], video)
            assert torch.equal(raw.audio[slot], audio)
            drawn.add(window)
    assert drawn == set(range(WINDOWS))


@pytest.mark.parametrize("residency", ["disk", "ram"])
def test_by_default_only_the_first_window_is_drawn(
    folder: Path, alone: dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor]], residency: str
) -> None:
    first = loader(folder, windows="first", residency=residency)

    for step in range(4):
        raw = first.raw(first.mixture.span(4 * step, 4))
        for slot, clip_id in enumerate(first.clip_ids(step)):
            assert torch.equal(raw.video[slot], alone[clip_id, 0][0])
            assert torch.equal(raw.audio[slot], alone[clip_id, 0][1])


def test_the_draw_depends_neither_on_the_first_step_nor_on_the_number_of_processes(folder: Path) -> None:
    from_start = [batches[0] for batches in loader(folder).stream(0, 9)]
    resumed = [batches[0] for batches in loader(folder, residency="ram").stream(6, 9)]

    assert all(map(same, from_start[6:], resumed))
    halves = [loader(folder, rank=rank, processes=2).read(7)[0] for rank in range(2)]
    assert torch.equal(torch.cat([half.clean.audio for half in halves]), from_start[7].clean.audio)
    assert from_start[0].clean.video.shape == (4, *TOY.video_latent)


def test_the_order_of_the_clips_is_the_same_with_windows_and_without(folder: Path) -> None:
    assert loader(folder).clip_ids(11) == loader(folder, windows="first").clip_ids(11)


def test_preview_shows_the_first_window(folder: Path, tmp_path: Path) -> None:
    uniform("shards", "preview", folder, "--out", tmp_path, "-n", 1)

    (preview,) = tmp_path.glob("*.mp4")
    assert probe(preview).frames == TOY.frames


def test_a_source_too_short_for_all_windows_is_rejected(folder: Path) -> None:
    (media, *_) = sorted((folder.parent / "world").rglob("media-*/*"))
    row = dataclasses.replace(rows(1)[0], start_ms=0, duration_ms=5000)
    long, listed_short = (Clip(dataclasses.replace(row, duration_ms=ms), {"source": str(media)}) for ms in (5000, 4000))

    found = list(clip_media.Stage(windows=4).open(Context(spec=TOY))(iter([long, listed_short])))

    assert [clip.dropped and clip.dropped.code for clip in found] == ["too_short", "too_short"]


def test_stages_with_different_windows_stop_the_run(folder: Path) -> None:
    clip = Clip(rows(1)[0], {"mp4": next(walk(folder / "clips-000000.tar")).content})

    with pytest.raises(SpecMismatchError, match=r"68 frames .*'toy' wants 34"):
        list(encode_latents.Stage().open(Context(spec=TOY))(iter([clip])))
    with pytest.raises(SpecMismatchError, match=r"68 frames .*'toy' wants 85"):
        list(encode_latents.Stage(windows=4).open(Context(spec=TOY))(iter([clip])))


def test_the_check_stage_uses_the_whole_clip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, seen = Clip(rows(1)[0], {"mp4": next(walk(folder / "clips-000000.tar")).content}), []
    monkeypatch.setattr(check, "block_luma", lambda frames: seen.append(len(frames)) or np.zeros((2, 2, 2)))

    list(check.Stage().open(Context(spec=TOY))(iter([clip])))

    assert seen == [LONG.frames]


def test_without_windows_the_provenance_of_stages_is_that_of_earlier_versions(tmp_path: Path) -> None:
    assert "windows" not in encode_latents.Stage().provenance(TOY)
    assert encode_latents.Stage(windows=2).provenance(TOY) == {**encode_latents.Stage().provenance(TOY), "windows": 2}
    assert clip_media.Stage(windows=1).provenance(TOY)["spec"] == dataclasses.asdict(TOY)
    assert clip_media.Stage(windows=3).provenance(TOY)["spec"] == dataclasses.asdict(LONG)


def test_windows_that_no_clip_can_have_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"clip_media\.windows is 0"):
        clip_media.Stage(windows=0)
    with pytest.raises(ConfigError, match=r"encode_latents\.windows is 0"):
        encode_latents.Stage(windows=0)
    with pytest.raises(ConfigError, match="25 frames, which are not whole chunks of 17"):
        clip_media.Stage(windows=2).provenance(Spec(name="cinema", fps=25))
