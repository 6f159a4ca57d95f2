"""Which clips and captions a run found hard."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.shard_folder import write_shard_folder
from uniform.errors import InputError
from uniform.training.reporting.clip_difficulty import explain_losses, write_clip_difficulty

STEPS, BATCH = 400, 8


def write_losses(run: Path, ids: list[str], **hard: float) -> None:
    """Losses of a run that lowers them, differ by task and time, and are multiplied for hard clips.

    Args:
        hard: `liar`: factor for clip 3 with its text; `odd`: for clip 5, with its text and without.
    """
    rng = np.random.default_rng(0)
    count = STEPS * BATCH
    clip, time = rng.integers(0, len(ids), count), rng.uniform(0, 1000, count)
    step = np.repeat(np.arange(1, STEPS + 1), BATCH)
    task, dropped = rng.choice(["t2av", "a2v", "v2a"], count), rng.uniform(size=count) < 0.5
    usual = 3 * np.exp(-step / 100) + 1 + time / 300 + 2 * (task == "v2a") + rng.uniform(0, 0.2, count)
    usual *= np.where((clip == 3) & ~dropped, hard.get("liar", 1), 1) * np.where(clip == 5, hard.get("odd", 1), 1)
    columns: dict[str, Any] = {
        "step": step,
        "position": np.arange(count),
        "clip_id": np.array(ids)[clip],
        "dataset": ["random"] * count,
        "caption_set": ["labels"] * count,
        "task": task,
        "time": time.astype(np.float32),
        "text_dropped": dropped,
        "video_mse": np.where(task == "v2a", 0, usual).astype(np.float32),
        "audio_mse": np.where(task == "a2v", 0, usual).astype(np.float32),
    }
    (run / "losses").mkdir(parents=True)
    pq.write_table(pa.table(columns), run / "losses" / f"steps-{1:08d}-{STEPS:08d}-0.parquet")


def test_a_caption_that_lies_is_hard_with_its_text_only(tmp_path: Path) -> None:
    ids = write_shard_folder(tmp_path / "shards", clips=16)
    write_losses(tmp_path / "run", ids, liar=3.0, odd=2.0)
    first, second, third, *_ = explain_losses(tmp_path / "shards", tmp_path / "run")

    assert (first.clip_id, second.clip_id) == (ids[3], ids[5])
    assert first.excess == pytest.approx(np.log(3), abs=0.1)
    assert first.excess_without == pytest.approx(0, abs=0.1)
    assert second.excess_without == pytest.approx(np.log(2), abs=0.1)
    assert third.excess < 0.1
    assert first.samples + first.samples_without > STEPS * BATCH / 2 / 16 * 0.6


def test_only_clips_of_the_folder_and_steps_from_since_on_count(tmp_path: Path) -> None:
    ids = write_shard_folder(tmp_path / "shards", clips=16)
    write_losses(tmp_path / "run", [*ids[:8], *(f"elsewhere{n}" for n in range(8))])
    found = explain_losses(tmp_path / "shards", tmp_path / "run", since=STEPS - 49)

    assert {row.clip_id for row in found} <= set(ids[:8])
    assert sum(row.samples + row.samples_without for row in found) < 50 * BATCH
    with pytest.raises(InputError, match=r"none from step 401 on"):
        explain_losses(tmp_path / "shards", tmp_path / "run", since=STEPS + 1)


def test_all_rows_can_be_kept_as_a_table(tmp_path: Path) -> None:
    ids = write_shard_folder(tmp_path / "shards", clips=4)
    write_losses(tmp_path / "run", ids)
    found = explain_losses(tmp_path / "shards", tmp_path / "run")
    write_clip_difficulty(tmp_path / "hard.parquet", found)

    assert pq.read_table(tmp_path / "hard.parquet")["clip_id"].to_pylist() == [row.clip_id for row in found]


def test_the_error_for_a_run_without_sample_losses_names_the_key_that_keeps_them(tmp_path: Path) -> None:
    write_shard_folder(tmp_path / "shards", clips=4)

    with pytest.raises(InputError, match=r"log\.sample_losses=true"):
        explain_losses(tmp_path / "shards", tmp_path / "run")
