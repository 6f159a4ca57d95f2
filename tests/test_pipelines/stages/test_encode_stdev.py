"""The optional column of posterior stds, from the stage to a sampled posterior in a batch."""

import dataclasses
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from cli.main import app
from pipelines.clip import Clip
from pipelines.estimate.codec_bench import generated_clip
from pipelines.stage import Context
from pipelines.stages import encode_latents, encode_stdev
from tests.support.shard_folder import write_shard_folder
from tests.support.small_networks import write_small_networks
from uniform.errors import ConfigError, ShardError, SpecMismatchError
from uniform.latents.batches import random_streams as draws
from uniform.latents.batches.mixture import Mixture, SourceConfig
from uniform.latents.format import read_card, shard_name
from uniform.latents.loader.loader import Loader, LoaderConfig
from uniform.latents.shards.lint import problems_of
from uniform.media.clip_file import read_clip
from uniform.pair import Pair
from uniform.spec import Spec, long_spec
from uniform.synthetic.write import write_world

SMALL = Spec(name="small", height_px=16, width_px=40, duration_s=1)
WEAK = {"min_psnr_db": 0.0, "max_mel_error": 99.0, "score_clips": 0}
"""Stand-in weights do not reconstruct a clip."""
SEED = 11


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_small_networks(tmp_path_factory.mktemp("weights"))


def encoded(networks: dict[str, Any], clips: list[Clip], windows: int = 1, **options: Any) -> list[Clip]:
    """Through the stages encode_latents and then encode_stdev."""
    latents = encode_latents.Stage(**networks, **WEAK, windows=windows).open(Context(spec=SMALL))
    stdev = encode_stdev.Stage(**{**networks, "windows": windows, **options}).open(Context(spec=SMALL))
    return list(stdev(latents(iter(clips))))


def arrays(clip: Clip, *names: str) -> Iterator[torch.Tensor]:
    assert clip.dropped is None
    return (torch.from_numpy(np.load(io.BytesIO(clip[name]), allow_pickle=False)) for name in names)


@pytest.mark.parametrize("windows", [1, 2])
def test_mean_and_std_of_every_window_are_written(networks: dict[str, Any], windows: int) -> None:
    given = generated_clip(0, long_spec(SMALL, windows))
    (clip,) = encoded(networks, [given], windows)
    video, audio = encode_latents.Stage(**networks).codecs(SMALL)
    frames, sound = (torch.from_numpy(media)[None] for media in read_clip(given["mp4"], long_spec(SMALL, windows)))

    video_mean, video_std, audio_mean, audio_std = arrays(
        clip, "video.npy", "video_std.npy", "audio.npy", "audio_std.npy"
    )
    for second in range(windows):
        with torch.inference_mode():
            pictures = video.encode_moments(frames[:, 17 * second : 17 * second + 17])
            sounds = audio.encode_moments(sound[:, 16_000 * second : 16_000 * second + 16_000])
        window = slice(5 * second, 5 * second + 5)
        assert torch.equal(torch.stack([video_mean[:, window], video_std[:, window]]), torch.cat(pictures).half())
        kept = torch.stack([audio_mean, audio_std] if windows == 1 else [audio_mean[:, second], audio_std[:, second]])
        assert torch.equal(kept, torch.cat(sounds).half())
    assert video_std.min() > 0


def test_stds_do_not_depend_on_the_batch(networks: dict[str, Any]) -> None:
    clips = [generated_clip(number, SMALL) for number in range(3)]
    together = encoded(networks, clips, batch_clips=3)
    assert len(together) == 3

    for clip, whole in zip(encoded(networks, clips[::-1], batch_clips=1), together[::-1], strict=True):
        assert [clip[name] for name in ("video_std.npy", "audio_std.npy")] == [
            whole[name] for name in ("video_std.npy", "audio_std.npy")
        ]


def test_codecs_without_a_posterior_are_refused_before_anything_is_encoded() -> None:
    with pytest.raises(ConfigError, match=r"encode_stdev\.video is 'dct', a codec without a posterior"):
        encode_stdev.Stage(video="dct", audio="dct").provenance(SMALL)


def test_stds_of_other_codecs_than_the_latents_stop_the_run(networks: dict[str, Any]) -> None:
    other = {**networks["audio_options"], "peak": 0.0}

    with pytest.raises(SpecMismatchError, match=r"audio codec.*\n.*options of encode_latents"):
        encoded(networks, [generated_clip(0, SMALL)], audio_options=other)


@pytest.fixture(scope="module")
def folder(networks: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips with the column of stds."""
    root = tmp_path_factory.mktemp("stdev")
    manifest = write_world("w1", SMALL, root / "world", train_clips=3, test_clips=0, seed=3)
    codecs = "\n".join(
        f"{name} = " + (f'{{ weights = "{value["weights"]}" }}' if isinstance(value, dict) else f'"{value}"')
        for name, value in networks.items()
    )
    stages = ['use = "fetch_media"', 'use = "clip_media"', 'use = "caption"\nset = "given"\nsource = "given"']
    stages += ['use = "encode_text"\nset = "given"\ncodec = "bytes"']
    stages += [f'use = "encode_latents"\nmin_psnr_db = 0.0\nmax_mel_error = 99.0\nscore_clips = 0\n{codecs}']
    stages += [f'use = "encode_stdev"\n{codecs}']
    spec = "\n".join(f"{name} = {json.dumps(value)}" for name, value in dataclasses.asdict(SMALL).items())
    run: list[Any] = ["run", manifest, "--out", root / "run", "--inline"]
    for number in (len(stages) - 1, len(stages)):  # the last stage is added to the recipe later
        tables = "".join(f"[[stage]]\n{stage}\n\n" for stage in stages[:number])
        (root / "recipe.toml").write_text(f'name = "small"\nunit_clips = 2\n\n[spec]\n{spec}\n\n{tables}')
        words = ["pipeline", *run, "--recipe", root / "recipe.toml"]
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
        shutil.copytree(root / "run", root / f"run-of-{number}-stages")
    return root / "run"


def test_adding_the_column_later_leaves_all_other_shards_unchanged(folder: Path) -> None:
    before, after = (
        {path.name: path.read_bytes() for path in (folder.parent / f"run-of-{number}-stages").glob("*.tar")}
        for number in (5, 6)
    )

    assert {name for name in after if name not in before} == {"stdev-000000.tar", "stdev-000001.tar"}
    assert {name: after[name] for name in before} == before


def loader(folder: Path, posterior: str = "sample", **options: Any) -> Loader:
    mixture = Mixture([SourceConfig(folder=folder, posterior=posterior)], seed=SEED)  # type: ignore[arg-type]
    return Loader(mixture, LoaderConfig(**{"global_batch": 3, **options}))


def test_the_index_names_the_stds_and_lint_reads_them(folder: Path) -> None:
    rows = pq.read_table(folder / "index.parquet").to_pylist()

    assert {row["stdev_video"]["shard"] for row in rows} == {"stdev-000000.tar", "stdev-000001.tar"}
    assert list(problems_of(folder)) == []
    damaged = folder / rows[0]["stdev_audio"]["shard"]
    content = damaged.read_bytes()
    place = rows[0]["stdev_audio"]["offset"] + rows[0]["stdev_audio"]["bytes"] - 1
    try:
        damaged.write_bytes(content[:place] + b"\xb0" + content[place + 1 :])
        problems = "\n".join(map(str, problems_of(folder)))
        with pytest.raises(ShardError, match=r"the audio std of clip .* is damaged"):
            loader(folder).read(0)
    finally:
        damaged.write_bytes(content)
    assert "has the sum" in problems
    assert "holds 1 standard deviations below 0" in problems


@pytest.mark.parametrize("residency", ["disk", "ram", "gpu"])
def test_a_sample_is_mean_plus_std_times_the_noise_of_its_position(folder: Path, residency: str) -> None:
    sampling, card = loader(folder, residency=residency), read_card(folder)
    (batch,) = sampling.read(4)
    rows = {row["clip_id"]: row for row in pq.read_table(folder / "index.parquet").to_pylist()}

    assert batch.clip_ids
    noise = draws.noise(SEED, batch.positions, batch.clean, draws.Stream.POSTERIOR)
    for kind, found, standard in zip(("video", "audio"), batch.clean, noise, strict=True):
        codec = getattr(card, kind)
        for slot, clip_id in enumerate(batch.clip_ids):
            mean, std = (member(folder, rows[clip_id][column]) for column in (kind, f"stdev_{kind}"))
            shape = (-1, *[1] * (mean.dim() - 1))
            shift, scale = (torch.tensor(codec[name]).reshape(shape) for name in ("shift", "scale"))
            assert torch.allclose(found[slot], (mean + std * standard[slot] - shift) / scale, atol=1e-5)
            assert not torch.allclose(found[slot], (mean - shift) / scale, atol=1e-3)


def member(folder: Path, place: dict[str, Any]) -> torch.Tensor:
    content = (folder / place["shard"]).read_bytes()[place["offset"] :][: place["bytes"]]
    return torch.from_numpy(np.load(io.BytesIO(content), allow_pickle=False)).float()


def test_a_resumed_run_draws_the_same_samples_and_another_epoch_others(folder: Path) -> None:
    from_start = [batches[0] for batches in loader(folder).stream(0, 4)]
    (resumed,) = loader(folder, residency="ram").read(3)

    assert torch.equal(from_start[3].clean.video, resumed.clean.video)
    assert torch.equal(from_start[3].clean.audio, resumed.clean.audio)
    first, second = (dict(zip(one.clip_ids, one.clean.video, strict=True)) for one in from_start[:2])
    assert not any(torch.equal(first[clip_id], second[clip_id]) for clip_id in first)


def test_a_mixture_can_hold_sources_with_and_without_posterior_sampling(folder: Path) -> None:
    both = [SourceConfig(folder=folder, posterior=choice) for choice in ("mean", "sample")]  # type: ignore[arg-type]
    mixture = Mixture(both, seed=SEED)
    mixed, means = (Loader(one, LoaderConfig(global_batch=6)) for one in (mixture, Mixture(both[:1] * 2, seed=SEED)))
    source = mixture.span(0, 6).source

    equal = [
        torch.equal(*pair) for pair in zip(mixed.read(0)[0].clean.video, means.read(0)[0].clean.video, strict=True)
    ]

    assert equal == [number == 0 for number in source.tolist()]


def test_means_need_no_column_and_samples_are_refused_without_one(folder: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    write_shard_folder(plain, clips=4)
    with pytest.raises(
        ShardError, match=r'no deviation of its video \(4 clips of 4\).* Set posterior = "mean".*encode_stdev'
    ):
        loader(plain)

    for path in [*folder.glob("latents-*.tar"), *folder.glob("text-*.tar"), *folder.glob("*.[pj]*")]:
        (tmp_path / path.name).symlink_to(path)  # all but the column
    kept: Pair = loader(tmp_path, posterior="mean").read(4)[0].clean
    assert torch.equal(kept.video, loader(folder, posterior="mean").read(4)[0].clean.video)
    with pytest.raises(ShardError, match=shard_name("stdev", 0)):
        loader(tmp_path)
