"""A run from its first step to its curve, and everything that must stop it with words."""

import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.shard_folder import codec_card, write_shard_folder
from tests.support.tiny_run import losses, tiny_config
from uniform.checkpoint_format import find_checkpoints
from uniform.errors import ConfigError, SpecMismatchError, TrainingError
from uniform.latents.loader import loader
from uniform.model.checkpoint import load_model
from uniform.pair import Pair
from uniform.spec import TOY
from uniform.training import trainer
from uniform.training.reporting.observer import Progress
from uniform.training.reporting.sample_losses import read_sample_losses
from uniform.training.saving.run_folder import locked, read_metrics_log
from uniform.training.trainer import train


class Notes:
    """An observer that keeps all events."""

    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {}
        self.windows: list[Progress] = []
        self.validations: list[tuple[int, Mapping[str, float]]] = []
        self.paths: list[Path] = []
        self.end = ""

    def started(self, summary: Mapping[str, Any]) -> None:
        self.metadata = dict(summary)

    def progressed(self, progress: Progress) -> None:
        self.windows.append(progress)

    def validated(self, step: int, losses: Mapping[str, float]) -> None:
        self.validations.append((step, losses))

    def saved(self, path: Path) -> None:
        self.paths.append(path)

    def ended(self, step: int, why: str) -> None:
        self.end = why


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_a_run_writes_its_logs_and_checkpoint(tmp_path: Path) -> None:
    notes = Notes()
    result = train(tiny_config(tmp_path, "run", "steps=8", "log.tensorboard=true"), [notes])

    out = tmp_path / "run"
    assert (result.step, result.finished, notes.end) == (8, True, "finished")
    assert [line["step"] for line in read_metrics_log(out, "step")] == list(range(1, 9))
    assert [progress.step for progress in notes.windows] == [4, 8]
    assert result.checkpoint == out / "checkpoints" / "step-00000008"
    assert (out / "curve.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert json.loads((out / "config.json").read_bytes())["model"]["depth"] == 1
    assert {"train/loss", "speed/tokens_per_s", "speed/mfu", "losses/v2a/audio_mse"} <= scalars(out / "tensorboard")
    assert any(name.startswith("losses/audio/time_") for name in scalars(out / "tensorboard"))
    window = notes.windows[-1]
    assert 0 <= window.data_wait <= 1
    assert window.clips_per_s > 0
    assert window.epochs == {str(tmp_path / "shards"): 8 * 4 / 18}
    names = {"t2av/video_mse", "t2av/audio_mse", "a2v/video_mse", "v2a/audio_mse"}
    assert names >= {name for name in window.losses if "/time_" not in name}
    assert any(name.startswith("video/time_") for name in window.losses)


def scalars(folder: Path) -> set[str]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return set(events.Tags()["scalars"])


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes, real, days = Notes(), time.time, itertools.cycle((0, 400 * 86_400, -400 * 86_400))
    train(tiny_config(tmp_path, "straight", "steps=8", "checkpoint.every=2"))
    monkeypatch.setattr(time, "time", lambda: real() + next(days))
    train(tiny_config(tmp_path, "jumping", "steps=5", "checkpoint.every=2"))
    train(tiny_config(tmp_path, "jumping", "steps=8", "checkpoint.every=2"), [notes])

    assert losses(tmp_path / "jumping") == losses(tmp_path / "straight")
    assert [path.name for path in notes.paths] == ["step-00000006", "step-00000008"]
    assert all(0 <= window.data_wait <= 1 and 0 < window.clips_per_s < 1e6 for window in notes.windows)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    train(tiny_config(tmp_path, "run", "steps=60", "optimiser.learning_rate=3e-3", "diffusion.objective=epsilon"))

    curve = losses(tmp_path / "run")
    assert sum(curve[-15:]) < 0.85 * sum(curve[:15])


def test_the_same_seed_gives_the_same_curve_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        train(tiny_config(tmp_path, name, "steps=4", f"seed={seed}"))

    assert losses(tmp_path / "one") == losses(tmp_path / "again")
    assert losses(tmp_path / "one") != losses(tmp_path / "two")


def test_gradient_accumulation_changes_nothing_but_rounding(tmp_path: Path) -> None:
    for accumulate in (1, 2, 4):
        train(tiny_config(tmp_path, f"run{accumulate}", "steps=5", f"optimiser.accumulate={accumulate}"))

    whole = losses(tmp_path / "run1")
    for accumulate in (2, 4):
        assert losses(tmp_path / f"run{accumulate}") == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        "compute.checkpointing=selective",
        "compute.checkpointing=full",
        "data.residency=ram",
        "data.read_ahead=0",
        "log.sample_losses=true",
        "checkpoint.background=false",
    ],
)
def test_how_it_is_computed_does_not_change_the_curve(tmp_path: Path, change: str) -> None:
    train(tiny_config(tmp_path, "plain", "steps=3"))
    train(tiny_config(tmp_path, "changed", "steps=3", change))

    assert losses(tmp_path / "changed") == pytest.approx(losses(tmp_path / "plain"), rel=1e-6)


def test_states_on_the_cpu_give_the_same_curve(tmp_path: Path) -> None:
    train(tiny_config(tmp_path, "plain", "steps=6"))
    train(tiny_config(tmp_path, "offload", "steps=3", "optimiser.offload=true"))
    train(tiny_config(tmp_path, "offload", "steps=6", "optimiser.offload=true"))

    assert losses(tmp_path / "offload") == losses(tmp_path / "plain")


def test_bf16_autocast_trains_float32_weights(tmp_path: Path) -> None:
    result = train(tiny_config(tmp_path, "run", "steps=3", "compute.precision=bf16"))
    model, _ = load_model(result.checkpoint)

    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    train(tiny_config(tmp_path, "fp32", "steps=3"))
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "fp32"), rel=0.03)
    assert losses(tmp_path / "run") != losses(tmp_path / "fp32")


def test_the_checkpoint_opens_for_sampling_with_its_metadata(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "run", "steps=3")
    result = train(config)
    averaged, metadata = load_model(result.checkpoint)
    raw, _ = load_model(tmp_path / "run", ema=False)

    assert metadata.model == config.model
    assert metadata.step == 3
    assert metadata.diffusion["objective"] == "flow"
    assert metadata.codecs["video"]["fingerprint"] == codec_card("dct", 4).fingerprint
    assert "video codec" in metadata.identity
    assert any(not torch.equal(a, b) for a, b in zip(averaged.parameters(), raw.parameters(), strict=True))


def test_fine_tuning_begins_with_the_average_of_another_run(tmp_path: Path) -> None:
    first = train(tiny_config(tmp_path, "first", "steps=5"))
    second = train(
        tiny_config(
            tmp_path,
            "second",
            "steps=1",
            f'init="{tmp_path / "first"}"',
            "optimiser.learning_rate=1e-12",
            "optimiser.muon_rate=1e-12",
        )
    )
    before, _ = load_model(first.checkpoint, ema=True)
    after, _ = load_model(second.checkpoint, ema=False)

    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(before.parameters(), after.parameters(), strict=True))


def test_validation_repeats_itself_and_leaves_no_trace(tmp_path: Path) -> None:
    write_shard_folder(tmp_path / "valid", clips=8, seed=9, dataset="valid")
    notes = Notes()
    validate = ("validation.every=2", f'validation.sources=[{{folder="{tmp_path / "valid"}"}}]', "validation.batches=1")
    train(tiny_config(tmp_path, "validated", "steps=4", *validate), [notes])
    train(tiny_config(tmp_path, "plain", "steps=4"))
    again = Notes()
    train(tiny_config(tmp_path, "again", "steps=4", *validate), [again])

    assert losses(tmp_path / "validated") == losses(tmp_path / "plain")
    assert [step for step, _ in notes.validations] == [2, 4]
    assert notes.validations == again.validations
    assert set(notes.validations[0][1]) == {"t2av/video_mse", "t2av/audio_mse", "a2v/video_mse", "v2a/audio_mse"}


def test_a_loss_that_is_not_finite_stops_the_run_with_its_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path, "run", "steps=8", "checkpoint.every=3", "checkpoint.background=false")
    ids = poison(monkeypatch, step=5)

    with pytest.raises(TrainingError, match=r"step 6: loss nan.*step-00000003") as caught:
        train(config)
    assert ids[0] in str(caught.value)
    assert ids[1] not in str(caught.value)
    assert [path.name for path in find_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000003"]
    assert read_metrics_log(tmp_path / "run", "step")[-1]["loss"] is None


def test_a_bad_step_is_skipped_by_rule_and_a_row_of_them_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, step=2)
    train(tiny_config(tmp_path, "run", "steps=5", "bad_step.rule=skip"))
    assert [line["skipped"] for line in read_metrics_log(tmp_path / "run", "step")] == [
        False,
        False,
        True,
        False,
        False,
    ]

    poison(monkeypatch, step=None)
    with pytest.raises(TrainingError, match="step 3"):
        train(tiny_config(tmp_path, "row", "steps=9", "bad_step.rule=skip", "bad_step.max_skips=2"))


def poison(monkeypatch: pytest.MonkeyPatch, step: int | None) -> list[str]:
    """Make the first clip of a step's batch not a number (of every step where None). Returns: ids of that batch."""
    real, ids = loader.Loader.read, []

    def read(self: loader.Loader, number: int) -> tuple[loader.Batch, ...]:
        batches = real(self, number)
        if step is None or number == step:
            batches[0].clean.video[0] = float("nan")
            batches[0].clean.audio[0] = float("nan")
            ids[:] = batches[0].clip_ids
        return batches

    monkeypatch.setattr(loader.Loader, "read", read)
    return ids


def test_a_spike_is_a_bad_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = iter([1.0] * 12 + [100.0] + [1.0] * 3)
    monkeypatch.setattr(trainer, "clip_gradients", lambda parameters, norm: torch.tensor(next(norms)))
    train(tiny_config(tmp_path, "run", "steps=16", "bad_step.rule=skip", "bad_step.spike_factor=10"))

    assert [n for n, line in enumerate(read_metrics_log(tmp_path / "run", "step"), 1) if line["skipped"]] == [13]


def test_two_trainers_in_one_folder_are_refused(tmp_path: Path) -> None:
    with locked(tmp_path / "run"), pytest.raises(TrainingError, match=r"another trainer \(process \d+\) is running"):
        train(tiny_config(tmp_path, "run", "steps=2"))
    train(tiny_config(tmp_path, "run", "steps=2"))


def test_the_network_gets_the_frame_rate_of_its_shards(tmp_path: Path) -> None:
    write_shard_folder(tmp_path / "slow", clips=8, spec=replace(TOY, fps=16))
    shards = f'data.sources=[{{folder="{tmp_path / "slow"}"}}]'
    run = train(tiny_config(tmp_path, "run", "steps=1", shards, "model.layout=tokens", "model.share=shared"))
    seen: list[float] = []
    model, metadata = load_model(run.checkpoint)
    model.fps_embedder.register_forward_pre_hook(lambda module, given: seen.extend(given[0].tolist()))
    noisy = Pair(torch.zeros(1, *metadata.spec.video_latent), torch.zeros(1, *metadata.spec.audio_latent))

    model(noisy, Pair(torch.ones(1), torch.ones(1)), torch.zeros(1, dtype=torch.long), torch.zeros(1, 1, 64))

    assert seen == [16.0]


def test_picture_and_sound_may_have_times_of_their_own(tmp_path: Path) -> None:
    words = ("steps=4", "log.sample_losses=true")
    train(tiny_config(tmp_path, "same", *words))
    train(tiny_config(tmp_path, "own", *words, "diffusion.independent_timesteps=true"))

    same, own = (read_sample_losses(tmp_path / name) for name in ("same", "own"))
    assert same is not None
    assert own is not None
    assert same["time"] == same["audio_time"] == own["time"]
    assert all(a != b for a, b in zip(own["time"].to_pylist(), own["audio_time"].to_pylist(), strict=True))


def test_texts_of_another_width_are_refused(tmp_path: Path) -> None:
    write_shard_folder(tmp_path / "wide", clips=8, text_width=96)

    with pytest.raises(SpecMismatchError, match=r"96 channels per token, model\.text_width is 64"):
        train(tiny_config(tmp_path, "run", f'data.sources=[{{folder="{tmp_path / "wide"}"}}]'))


def test_without_a_folder_of_shards_nothing_begins(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.sources is empty"):
        train(replace(tiny_config(tmp_path, "run"), data=replace(tiny_config(tmp_path, "run").data, sources=())))


def test_a_finished_run_started_again_does_nothing(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "run", "steps=3")
    first = train(config)
    before = (first.checkpoint / "model.safetensors").stat().st_mtime_ns
    second = train(config)

    assert second.step == 3
    assert (first.checkpoint / "model.safetensors").stat().st_mtime_ns == before


def test_each_samples_loss_is_kept_by_its_clip(tmp_path: Path) -> None:
    words = ("log.sample_losses=true", "checkpoint.every=2")
    train(tiny_config(tmp_path, "run", "steps=5", *words))
    for rank in range(2):
        lost = tmp_path / "run" / "losses" / f"steps-00000006-00000009-{rank}.parquet"
        lost.write_bytes(b"of a run on two processes that was lost")
    train(tiny_config(tmp_path, "run", "steps=7", *words))

    table = read_sample_losses(tmp_path / "run")
    assert table is not None
    assert table["position"].to_pylist() == list(range(7 * 4))
    assert set(table["caption_set"].to_pylist()) == {"labels"}
    totals = np.array(table["video_mse"]) + np.array(table["audio_mse"])
    assert totals.reshape(7, 4).mean(axis=1) == pytest.approx(losses(tmp_path / "run"), rel=1e-6)
    assert all(
        table["audio_mse"][row].as_py() == 0 for row, task in enumerate(table["task"].to_pylist()) if task == "a2v"
    )
    assert read_sample_losses(tmp_path) is None
