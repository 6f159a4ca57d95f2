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
from pipelines.run.commits import Commit, read_commit
from pipelines.run.folder import RunFolder
from pipelines.run.inputs import UnitFields
from pipelines.stage import Context, Work
from uniform.errors import MediaError, PipelineError, UniformError
from uniform.fingerprint import digest


@dataclass(frozen=True, kw_only=True)
class UnitTask:
    """What a worker must know to do one unit of one stage: ids and paths, no media."""

    folder: Path
    recipe: Recipe
    stage: str
    unit: int
    rows: tuple[Row, ...]
    """Every clip of the unit; the worker leaves out those that an earlier stage took off the road."""
    made_of: Mapping[str, Any]
    banned: Mapping[str, str] = field(default_factory=dict)
    """Clips that killed workers, with the reason: rejected without being looked at."""


def open_stage(instance: StageStep, context: Context) -> Work:
    """Open a stage in this process, once.

    PyTorch gets one thread: how a sum is split over threads changes its last bits, and equal bytes from any number of
    workers is a promise. Raises: PipelineError where the stage's own code fails.
    """
    try:
        work = instance.stage.open(context)
    except UniformError:
        raise
    except Exception as error:
        raise PipelineError(f"stage '{instance.name}' did not open: {_told(error)}") from error
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
    return work


def run_unit(task: UnitTask, work: Work) -> Commit:
    """Do one unit and commit it.

    The order is the promise: results under their final name, then the ledger part, then the marker. A process that
    dies in between leaves files that nothing counts; the next run writes them again.

    Raises: PipelineError where the stage's code fails, loses a clip, breaks their order or gives an unknown code, and
        where the disk is full or not writable; ShardError where an input is damaged. Nothing is committed then.
    """
    folder, instance = RunFolder(task.folder), task.recipe.instance(task.stage)
    began = time.monotonic()
    with writing_to(task.folder):
        rows = reaching(folder, task)
        attempt = folder.next_attempt(task.stage, task.unit)
        artifact = folder.artifact(instance.stage.store, task.unit)
        judge = _Judge(task, instance, attempt, artifact)
        sha256 = None
        with UnitFields(folder, task.recipe, task.stage, task.unit) as fields:
            kept = judge.judged(work, rows, fields)
            if instance.stage.store.kind == "tar" and artifact is not None:
                members, sha256 = write_tar(artifact, instance.stage.store.name, instance.stage.gives, kept)
                write_members(folder.members(task.stage, task.unit), members)
            elif artifact is not None:
                sha256 = write_table(artifact, instance.stage.gives, kept)
            else:
                for _ in kept:
                    pass
        part = folder.ledger(task.stage, task.unit, attempt)
        ledger.write_part(part, judge.ledger)
        tally = ledger.tally_of(row["code"] for row in judge.ledger)
        if tally.clips != len(rows):
            raise PipelineError(f"stage '{task.stage}', unit {task.unit}: {len(rows)} clips in, {tally.clips} out")
        commit = Commit(
            stage=task.stage,
            unit=task.unit,
            made_of=task.made_of,
            kept=digest([row["clip_id"] for row in judge.ledger if row["code"] == ledger.OK]),
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
            hours=ledger.hours_of(judge.ledger),
        )
        commit.write(folder.commit(task.stage, task.unit))
        return commit


def probe_clip(task: UnitTask, work: Work, clip_id: str) -> None:
    """Let a stage work on one clip of a unit alone and throw the result away, to see whether the process survives."""
    folder = RunFolder(task.folder)
    rows = [row for row in reaching(folder, task) if row.clip_id == clip_id]
    with UnitFields(folder, task.recipe, task.stage, task.unit) as fields:
        given = (Clip(row, fields.read(row.clip_id), notes=fields.notes(row.clip_id)) for row in rows)
        for _ in work(given) if rows else ():
            pass


def reaching(folder: RunFolder, task: UnitTask) -> list[Row]:
    """The unit's clips that reach the stage: those that the stage before it kept, in the unit's order."""
    before = task.recipe.before(task.stage)
    if before is None:
        return list(task.rows)
    commit = read_commit(folder.commit(before.name, task.unit))
    if commit is None:
        raise PipelineError(f"unit {task.unit} was not committed by stage '{before.name}'; run that stage first")
    kept = set(ledger.kept_ids(folder.inside(commit.ledger)))
    return [row for row in task.rows if row.clip_id in kept]


class _Judge:
    """Feeds clips to a stage's work, checks what comes back, and writes down what became of each."""

    def __init__(self, task: UnitTask, instance: StageStep, attempt: int, artifact: Path | None) -> None:
        self._task = task
        self._instance = instance
        self._facts: dict[str, Any] = {
            "stage": task.stage,
            "unit": task.unit,
            "attempt": attempt,
            "worker": worker_name(),
            "recipe": task.recipe.name,
        }
        self._output = artifact.relative_to(task.folder).as_posix() if artifact else None
        self._before: dict[str, Clip] = {}
        self.ledger: list[dict[str, Any]] = []

    def judged(self, work: Work, rows: list[Row], fields: UnitFields) -> Iterator[Clip]:
        """Clips that stay, one at a time and in order. Their ledger rows, and those of the others, gather aside."""
        results = self._results(work, rows, fields)
        for row in rows:
            started, clock = ledger.now(), time.monotonic()
            reason = self._task.banned.get(row.clip_id)
            clip = Clip(row).drop("worker_crash", reason) if reason is not None else next(results)
            self._write_down(clip, started=started, seconds=time.monotonic() - clock)
            if clip.dropped is None:
                yield clip
        if next(results, None) is not None:
            raise PipelineError(f"stage '{self._task.stage}' gave back more clips than it was given")

    def _results(self, work: Work, rows: list[Row], fields: UnitFields) -> Iterator[Clip]:
        wanted = [row for row in rows if row.clip_id not in self._task.banned]
        if not wanted:
            return
        outputs = iter(self._called(work, wanted, fields))
        for row in wanted:
            try:
                clip = next(outputs, None)
            except (UniformError, OSError) as error:
                raise self._explained(error, row) from error
            except Exception as error:
                raise PipelineError(f"{self._where(row)} failed. {_told(error)}") from error
            if clip is None:
                raise PipelineError(f"{self._where(row)} gave back nothing: it must give one clip for each")
            if clip.row != row:
                raise PipelineError(f"{self._where(row)} gave back clip {clip.row.clip_id}: it must keep their order")
            yield clip
        if next(outputs, None) is not None:
            raise PipelineError(f"{self._where(wanted[-1])} was followed by a clip that nobody gave it")

    def _called(self, work: Work, rows: list[Row], fields: UnitFields) -> Iterator[Clip]:
        def given() -> Iterator[Clip]:
            for row in rows:
                clip = Clip(row, fields.read(row.clip_id), notes=fields.notes(row.clip_id))
                self._before[row.clip_id] = replace(clip, fields={})
                yield clip

        return work(given())

    def _explained(self, error: UniformError | OSError, row: Row) -> UniformError:
        if isinstance(error, UniformError) and not isinstance(error, MediaError):
            return error
        full = (
            explain_disk_error(error, self._task.folder) if isinstance(error, OSError) and is_disk_full(error) else None
        )
        return full or PipelineError(f"{self._where(row)} failed. {_told(error)}")

    def _write_down(self, clip: Clip, **facts: Any) -> None:
        given = self._before.pop(clip.row.clip_id, clip)
        notes = clip.notes[len(given.notes) :]
        stays = clip.dropped is None
        size = sum(len(clip.fields.get(name) or b"") for name in self._measured()) if stays else None
        output = self._output if stays else None
        self.ledger.append(ledger.row(clip, notes=notes, output=output, bytes=size, **self._facts, **facts))

    def _measured(self) -> tuple[str, ...]:
        return tuple(self._instance.stage.gives) if self._instance.stage.store.kind == "tar" else ()

    def _where(self, row: Row) -> str:
        return f"stage '{self._task.stage}', unit {self._task.unit}, at clip {row.clip_id} ({row.source_uri})"


def _told(error: BaseException) -> str:
    trace = "".join(traceback.format_exception(error)).rstrip()
    return f"{type(error).__name__}: {error}\nNothing of this unit was committed; the next run does it again.\n{trace}"


def worker_name() -> str:
    """This process, for the ledger: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"
