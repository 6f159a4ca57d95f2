"""Every program reads checkpoints alike: other formats are refused, damaged ones skipped by name, neither deleted."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.small_sampler import small_model
from tests.support.tiny_run import tiny_config
from uniform.checkpoint_format import (
    FormatVersionError,
    Snapshot,
    find_checkpoints,
    newest_checkpoint,
    prune,
    save_tensors,
    step_of,
    write_checkpoint,
)
from uniform.errors import CheckpointError
from uniform.export.model import export_diffusers, export_model
from uniform.model.checkpoint import initialise_from, load_model, save_model
from uniform.training.trainer import train


@pytest.fixture
def umask() -> Iterator[int]:
    """A umask that neither the libraries' defaults nor the usual one give."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def snapshot(step: int) -> Snapshot:
    tensors = {"weight": torch.full((4, 4), float(step))}
    return Snapshot(metadata={"step": step}, tensors={"model": tensors, "ema": tensors, "optimiser": {}})


def set_version(checkpoint: Path, version: int) -> None:
    values = json.loads((checkpoint / "checkpoint.json").read_text())
    (checkpoint / "checkpoint.json").write_text(json.dumps({**values, "format_version": version}))


def cut(checkpoint: Path) -> None:
    path = checkpoint / "ema.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_newest_checkpoint_of_another_format_is_refused_by_name(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, snapshot(1))
    set_version(write_checkpoint(tmp_path, snapshot(2)), 7)
    wanted = r"step-00000002 is of format 7, this toolkit reads 1\. Upgrade, or pass another --out\."

    with pytest.raises(FormatVersionError, match=wanted):
        newest_checkpoint(tmp_path)
    with pytest.raises(FormatVersionError, match=wanted):
        find_checkpoints(tmp_path)


def test_trainer_sampler_export_and_init_refuse_another_format_alike(tmp_path: Path) -> None:
    path = train(tiny_config(tmp_path, "run", "steps=2")).checkpoint
    set_version(path, 7)
    before = sorted(path.iterdir())
    model, _ = small_model()

    for use in (
        lambda: train(tiny_config(tmp_path, "run", "steps=3")),
        lambda: load_model(tmp_path / "run"),
        lambda: load_model(path),
        lambda: export_model(tmp_path / "run", tmp_path / "out.safetensors"),
        lambda: initialise_from(model, tmp_path / "run"),
    ):
        with pytest.raises(CheckpointError, match="step-00000002 is of format 7, this toolkit reads 1"):
            use()
    assert sorted(path.iterdir()) == before


def test_trainer_sampler_and_export_skip_a_damaged_newest_checkpoint_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = ("checkpoint.every=2", "checkpoint.background=false")
    path = train(tiny_config(tmp_path, "run", "steps=4", *changes)).checkpoint
    cut(path)
    size = (path / "ema.safetensors").stat().st_size

    for use in (
        lambda: load_model(tmp_path / "run")[1].step,
        lambda: export_model(tmp_path / "run", tmp_path / "out.safetensors").metadata.step,
    ):
        caplog.clear()
        assert use() == 2
        assert any("step-00000004 is damaged (ema.safetensors has" in message for message in caplog.messages)
    caplog.clear()
    assert train(tiny_config(tmp_path, "run", "steps=4", *changes)).step == 4
    assert any("step-00000004 is damaged" in message for message in caplog.messages)
    kept = tmp_path / "run" / "checkpoints" / "damaged-step-00000004-1" / "ema.safetensors"
    assert kept.stat().st_size == size
    assert load_model(tmp_path / "run")[1].step == 4


def test_a_damaged_checkpoint_that_is_named_is_refused_without_advice_to_fetch(tmp_path: Path) -> None:
    path = train(tiny_config(tmp_path, "run", "steps=2")).checkpoint
    cut(path)

    with pytest.raises(CheckpointError, match=r"step-00000002 is damaged: ema\.safetensors has \d+ bytes") as refused:
        load_model(path)
    assert "fetch" not in str(refused.value)


def test_an_exported_file_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uniform.model.checkpoint.FORMAT_VERSION", 7)
    save_model(tmp_path / "model.safetensors", *small_model())

    with pytest.raises(CheckpointError, match=r"model\.safetensors is of format 7, this toolkit reads 1"):
        load_model(tmp_path / "model.safetensors")


def test_pruning_and_writing_never_delete_what_cannot_be_read(tmp_path: Path) -> None:
    for step in range(1, 6):
        write_checkpoint(tmp_path, snapshot(step))
    cut(tmp_path / "step-00000001")
    (tmp_path / "step-00000002" / "checkpoint.json").write_bytes(b"{")
    set_version(tmp_path / "step-00000003", 7)

    prune(tmp_path, keep_last=1, keep_every=None)
    assert [step_of(path) for path in sorted(tmp_path.iterdir())] == [1, 2, 3, 5]
    with pytest.raises(FormatVersionError):
        write_checkpoint(tmp_path, snapshot(3))
    write_checkpoint(tmp_path, snapshot(1))
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == ["damaged-step-00000001-1", *(f"step-0000000{step}" for step in (1, 2, 3, 5))]


def test_a_name_that_is_no_step_is_refused() -> None:
    with pytest.raises(CheckpointError, match="not the name of a checkpoint"):
        step_of(Path("latest"))


def test_tensors_are_written_with_the_mode_of_the_umask(tmp_path: Path, umask: int) -> None:
    save_tensors(tmp_path / "a.safetensors", {"x": torch.ones(2, 3).T})

    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask


def test_every_file_of_a_training_and_of_its_exports_has_the_mode_of_the_umask(tmp_path: Path, umask: int) -> None:
    changes = ("log.tensorboard=true", "log.sample_losses=true", "checkpoint.every=1")
    train(tiny_config(tmp_path, "run", "steps=2", *changes))
    export_model(tmp_path / "run", tmp_path / "export" / "model.safetensors")
    export_diffusers(tmp_path / "run", tmp_path / "diffusers")

    found = [path for folder in ("run", "export", "diffusers") for path in (tmp_path / folder).rglob("*")]
    wrong = {
        str(path.relative_to(tmp_path)): oct(path.stat().st_mode & 0o777)
        for path in found
        if path.stat().st_mode & 0o777 != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert {path.suffix for path in found} >= {".safetensors", ".json", ".jsonl", ".png", ".lock", ".parquet"}
    assert wrong == {}


def test_a_warning_names_each_damaged_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2, 3):
        write_checkpoint(tmp_path, snapshot(step))
    cut(tmp_path / "step-00000003")
    (tmp_path / "step-00000002" / "model.safetensors").unlink()

    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(tmp_path) == tmp_path / "step-00000001"
    assert len(caplog.messages) == 2
    for step, message in zip((3, 2), caplog.messages, strict=True):
        assert f"step-0000000{step} is damaged" in message
    assert "model.safetensors: No such file or directory" in caplog.messages[1]


def test_an_old_checkpoint_that_cannot_be_removed_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        write_checkpoint(tmp_path, snapshot(step))

    def fails(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(39, "Directory not empty", str(path))

    monkeypatch.setattr("uniform.checkpoint_format.shutil.rmtree", fails)
    prune(tmp_path, keep_last=1, keep_every=None)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000002"]
    monkeypatch.undo()
    prune(tmp_path, keep_last=1, keep_every=None)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_a_half_removed_old_checkpoint_is_removed(tmp_path: Path) -> None:
    for step in (1, 2):
        write_checkpoint(tmp_path, snapshot(step))
    (tmp_path / "step-00000001" / "checkpoint.json").unlink()

    prune(tmp_path, keep_last=5, keep_every=None)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_the_same_step_written_again_is_never_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_checkpoint(tmp_path, snapshot(1))
    renamed: list[Path] = []
    monkeypatch.setattr(Path, "rename", lambda self, target: renamed.append(self))
    write_checkpoint(tmp_path, snapshot(1))

    assert renamed == []  # one exchange of names, no moment between two renames
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
