"""The loss on fixed clips: what it decides, and which clips will do."""

from pathlib import Path

import pytest

from tests.support.shard_folder import write_shard_folder
from tests.support.tiny_run import tiny_config
from uniform.checkpoint_format import find_checkpoints
from uniform.errors import ConfigError, ShardError
from uniform.training.plan import plan_run
from uniform.training.saving.run_folder import read_metrics_log
from uniform.training.trainer import train
from uniform.training.validation import Validation


def test_few_validation_clips_make_small_batches_and_none_are_refused_before_the_run(tmp_path: Path) -> None:
    write_shard_folder(tmp_path / "valid", clips=3, seed=9, dataset="valid")
    validate = ("steps=2", "validation.every=1", f'validation.sources=[{{folder="{tmp_path / "valid"}"}}]')
    train(tiny_config(tmp_path, "run", *validate))
    assert len(read_metrics_log(tmp_path / "run", "validation")) == 2

    with pytest.raises(ConfigError, match=r"validation\.sources have 3 clips, and 4 processes"):
        plan_run(tiny_config(tmp_path, "many", *validate), processes=4)
    with pytest.raises(ShardError, match="nowhere"):
        plan_run(tiny_config(tmp_path, "none", *validate[:2], 'validation.sources=[{folder="nowhere"}]'))


def test_the_best_checkpoint_on_validation_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard_folder(tmp_path / "valid", clips=8, seed=9, dataset="valid")
    means = iter([3.0, 1.0, 2.0, 2.5])
    monkeypatch.setattr(Validation, "losses", lambda self: {"t2av/video_mse": next(means)})
    validate = ("validation.every=1", f'validation.sources=[{{folder="{tmp_path / "valid"}"}}]')
    train(tiny_config(tmp_path, "run", "steps=4", "checkpoint.every=1", "checkpoint.keep_last=1", *validate))

    assert [path.name for path in find_checkpoints(tmp_path / "run" / "checkpoints")] == [
        "step-00000002",
        "step-00000004",
    ]
