"""One unit through one stage, in this process: read, work, write, verify, commit.

Both backends use this file; they only decide in which process it runs. Two workers that run the same unit write the
same bytes, so it is harmless if a worker is thought dead and still finishes.
"""

import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipelines.clip import Clip, Row
from pipelines.disk import explain_disk_error, is_disk_full, writing_to
from pipelines.recipe import Recipe, StageStep
from pipelines.run import ledger
from pipelines.run.artifacts import write_members, write_table, write_tar
from pipelines.run.commits import Commit
from pipelines.run.folder import RunFolder
from pipelines.run.inputs import UnitFields
from pipelines.stage import Context, Work
from uniform.errors import MediaError, PipelineError, UniformError
from uniform.fingerprint import digest


@dataclass(frozen=True, kw_only=True)
class UnitTask:
    """What a worker needs to do one unit of one stage: ids and paths, no media."""

    folder: Path
    recipe: Recipe
    stage: str
    unit: int
    rows: tuple[Row, ...]
    """Every clip of the unit; the worker leaves out those that an earlier stage dropped."""
    inputs: Mapping[str, Any]
    """Everything that determines the results, for the commit."""
    ledgers: Mapping[str, str]
    """Stage -> its ledger part of this unit that counts, relative to the run directory: the stage before, and every
    stage that the needed fields are made from."""
    banned: Mapping[str, str] = field(default_factory=dict)
    """Clips that killed workers, with the reason: dropped without being processed."""


def open_stage(step: StageStep, context: Context) -> Work:
    """Open a stage in this process, once.

    PyTorch gets one thread: how a sum is split over threads changes its last bits, and equal bytes from any number of
    workers is a promise. Raises: PipelineError where the stage's own code fails.
    """
    try:
        work = step.stage.open(context)
    except UniformError:
        raise
    except Exception as error:
        raise PipelineError(f"stage '{step.name}' did not open: {_described(error)}") from error
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
    return work


def run_unit(task: UnitTask, work: Work) -> Commit:
    """Do one unit and commit it.

    The order matters: results under their final name, then the ledger part, then the commit marker. A process that
    dies in between leaves files that do not count; the next run writes them again.

    Raises: PipelineError where the stage's code fails, loses a clip, breaks their order or gives an unknown code, and
        where the disk is full or not writable; ShardError where an input is damaged. Nothing is committed then.
    """
    folder, step = RunFolder(task.folder), task.recipe.step(task.stage)
    began = time.monotonic()
    with writing_to(task.folder):
        rows = _reaching(folder, task)
        attempt = folder.next_attempt(task.stage, task.unit)
        artifact = folder.artifact(step.stage.store, task.unit)
        recorder = _Recorder(task, step, attempt, artifact)
        sha256 = None
        with UnitFields(folder, task.recipe, task.stage, task.unit, task.ledgers) as fields:
            kept = recorder.kept(work, rows, fields)
            if step.stage.store.kind == "tar" and artifact is not None:
                members, sha256 = write_tar(artifact, step.stage.store.name, step.stage.gives, kept)
                write_members(folder.members(task.stage, task.unit), members)
            elif artifact is not None:
                sha256 = write_table(artifact, step.stage.gives, kept)
            else:
                for _ in kept:
                    pass
        part = folder.ledger(task.stage, task.unit, attempt)
        ledger.write_part(part, recorder.ledger)
        tally = ledger.tally_of(row["code"] for row in recorder.ledger)
        if tally.clips != len(rows):
            raise PipelineError(f"stage '{task.stage}', unit {task.unit}: {len(rows)} clips in, {tally.clips} out")
        commit = Commit(
            stage=task.stage,
            unit=task.unit,
            inputs=task.inputs,
            kept=digest([row["clip_id"] for row in recorder.ledger if row["code"] == ledger.OK]),
            codes=tally.codes,
            clips=tally.clips,
            ledger=part.relative_to(task.folder).as_posix(),
            attempt=attempt,
            seconds=round(time.monotonic() - began, 3),
            worker=worker_name(),
            artifact=artifact.relative_to(task.folder).as_posix() if artifact else None,
            sha256=sha256,
            bytes=artifact.stat().st_size if artifact else 0,
            ended=round(time.time(), 3),
            hours=ledger.hours_of(recorder.ledger),
        )
        commit.write(folder.commit(task.stage, task.unit))
        return commit


def probe_clip(task: UnitTask, work: Work, clip_id: str) -> None:
    """Run a stage on one clip of a unit alone and discard the result, to see whether the process survives."""
    folder = RunFolder(task.folder)
    rows = [row for row in _reaching(folder, task) if row.clip_id == clip_id]
    with UnitFields(folder, task.recipe, task.stage, task.unit, task.ledgers) as fields:
        clips = (Clip(row, fields.read(row.clip_id), notes=fields.notes(row.clip_id)) for row in rows)
        for _ in work(clips) if rows else ():
            pass


def _reaching(folder: RunFolder, task: UnitTask) -> list[Row]:
    """The unit's clips that reach the stage: those that the stage before it kept, in the unit's order."""
    previous = task.recipe.previous(task.stage)
    if previous is None:
        return list(task.rows)
    kept = set(ledger.kept_ids(folder.inside(task.ledgers[previous.name])))
    return [row for row in task.rows if row.clip_id in kept]


class _Recorder:
    """Gives clips to a stage's work, checks what it returns, and collects one ledger row per clip."""

    def __init__(self, task: UnitTask, step: StageStep, attempt: int, artifact: Path | None) -> None:
        self._task = task
        self._step = step
        self._columns: dict[str, Any] = {
            "stage": task.stage,
            "unit": task.unit,
            "attempt": attempt,
            "worker": worker_name(),
            "recipe": task.recipe.name,
        }
        """Ledger columns that all clips of the unit share."""
        self._output = artifact.relative_to(task.folder).as_posix() if artifact else None
        self._sent: dict[str, Clip] = {}
        self.ledger: list[dict[str, Any]] = []

    def kept(self, work: Work, rows: list[Row], fields: UnitFields) -> Iterator[Clip]:
        """The kept clips, one at a time and in order. `ledger` collects the rows of all clips."""
        results = self._results(work, rows, fields)
        for row in rows:
            started, clock = ledger.now(), time.monotonic()
            reason = self._task.banned.get(row.clip_id)
            clip = Clip(row).drop("worker_crash", reason) if reason is not None else next(results)
            self._record(clip, started=started, seconds=time.monotonic() - clock)
            if clip.dropped is None:
                yield clip
        if next(results, None) is not None:
            raise PipelineError(f"stage '{self._task.stage}' returned more clips than it got")

    def _results(self, work: Work, rows: list[Row], fields: UnitFields) -> Iterator[Clip]:
        wanted = [row for row in rows if row.clip_id not in self._task.banned]
        if not wanted:
            return
        outputs = iter(self._call(work, wanted, fields))
        for row in wanted:
            try:
                clip = next(outputs, None)
            except (UniformError, OSError) as error:
                raise self._explained(error, row) from error
            except Exception as error:
                raise PipelineError(f"{self._where(row)} failed. {_described(error)}") from error
            if clip is None:
                raise PipelineError(f"{self._where(row)} returned nothing: it must return one clip for each")
            if clip.row != row:
                raise PipelineError(f"{self._where(row)} returned clip {clip.row.clip_id}: it must keep their order")
            yield clip
        if next(outputs, None) is not None:
            raise PipelineError(f"{self._where(wanted[-1])} was followed by a clip that the stage did not get")

    def _call(self, work: Work, rows: list[Row], fields: UnitFields) -> Iterator[Clip]:
        def clips() -> Iterator[Clip]:
            for row in rows:
                clip = Clip(row, fields.read(row.clip_id), notes=fields.notes(row.clip_id))
                self._sent[row.clip_id] = replace(clip, fields={})
                yield clip

        return work(clips())

    def _explained(self, error: UniformError | OSError, row: Row) -> UniformError:
        if isinstance(error, UniformError) and not isinstance(error, MediaError):
            return error
        full = (
            explain_disk_error(error, self._task.folder) if isinstance(error, OSError) and is_disk_full(error) else None
        )
        return full or PipelineError(f"{self._where(row)} failed. {_described(error)}")

    def _record(self, clip: Clip, **times: Any) -> None:
        sent = self._sent.pop(clip.row.clip_id, clip)
        notes = clip.notes[len(sent.notes) :]
        kept = clip.dropped is None
        size = sum(len(clip.fields.get(name) or b"") for name in self._tar_fields()) if kept else None
        output = self._output if kept else None
        self.ledger.append(ledger.row(clip, notes=notes, output=output, bytes=size, **self._columns, **times))

    def _tar_fields(self) -> tuple[str, ...]:
        return tuple(self._step.stage.gives) if self._step.stage.store.kind == "tar" else ()

    def _where(self, row: Row) -> str:
        return f"stage '{self._task.stage}', unit {self._task.unit}, at clip {row.clip_id} ({row.source_uri})"


def _described(error: BaseException) -> str:
    trace = "".join(traceback.format_exception(error)).rstrip()
    return f"{type(error).__name__}: {error}\nNothing of this unit was committed; the next run does it again.\n{trace}"


def worker_name() -> str:
    """This process, for the ledger: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"
