"""wandb and trackio as observers: optional packages that show the same numbers as metrics.jsonl, run after run.

Keys belong to the trackers' own logins (`wandb login`, WANDB_API_KEY, WANDB_MODE=offline; trackio is local): none of
them passes through here. What is sent about the run is its configuration without any folder or address.
"""

import importlib
import json
import logging
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uniform.atomic import write_bytes
from uniform.errors import TrainingError
from uniform.training.reporting.observer import Progress
from uniform.training.settings.config import TrainConfig
from uniform.training.settings.presets import as_json, flatten

logger = logging.getLogger(__name__)
IDS_NAME = "trackers.json"
"""In the run's folder: the id of this run in each tracker, so that a resumed run continues it."""
PLACES = ("out", "init", "data.sources", "validation.sources")
"""Keys of the configuration that hold paths or addresses, which could hold a secret."""

WANDB_SETTINGS = {"console": "off", "disable_code": True, "disable_git": True, "x_disable_meta": True}
"""No output, no code, and no command line, which may hold an address."""


@dataclass(frozen=True)
class TrackerRun:
    """The functions of a tracker's run."""

    log: Callable[..., Any]
    """log(numbers, step=step)."""
    finish: Callable[[], Any]


class Tracker:
    """Sends the metrics of windows and validations. A tracker that fails later is closed; the run continues."""

    def __init__(self, name: str, run: TrackerRun) -> None:
        self._name, self._run = name, run
        self._works = True

    def started(self, summary: Mapping[str, Any]) -> None:
        pass

    def progressed(self, progress: Progress) -> None:
        epochs = {str(number): value for number, value in enumerate(progress.epochs.values())}  # not by folder's name
        self._send("window", {**vars(progress), "epochs": epochs}, progress.step)

    def validated(self, step: int, losses: Mapping[str, float]) -> None:
        self._send("validation", {"losses": losses}, step)

    def saved(self, path: Path) -> None:
        pass

    def ended(self, step: int, why: str) -> None:
        self._guarded(self._run.finish)

    def _send(self, kind: str, line: Mapping[str, Any], step: int) -> None:
        flat = flatten(line, kind)
        numbers = {key.replace(".", "/"): value for key, value in flat.items() if isinstance(value, int | float)}
        self._guarded(lambda: self._run.log(numbers, step=step))

    def _guarded(self, call: Callable[[], Any]) -> None:
        if not self._works:
            return
        try:
            with redirect_stdout(sys.stderr):  # standard output is for results
                call()
        except Exception as error:  # a service's client may raise anything
            self._works = False
            logger.warning("%s: %s; it gets no more numbers of this run, metrics.jsonl does", self._name, error)


def open_trackers(config: TrainConfig) -> list[Tracker]:
    """The trackers of `log.trackers`, each continuing the tracker run of this folder, if any.

    Raises: TrainingError where one is not installed or does not begin.
    """
    return [Tracker(name, _open(name, config)) for name in config.log.trackers]


def _open(name: str, config: TrainConfig) -> TrackerRun:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise TrainingError(
            f'log.trackers names "{name}", which is not installed ({error}). Install the extra: '
            f'pip install "uniform-toolkit[{name}]"; or leave it out of log.trackers.'
        ) from error
    begin = {"wandb": _begin_wandb, "trackio": _begin_trackio}[name]
    try:
        with redirect_stdout(sys.stderr):
            return begin(module, config, _run_id(config.out, name))
    except Exception as error:  # a service's client may raise anything
        raise TrainingError(
            f"log.trackers: {name} did not start ({type(error).__name__}: {error}). Log in (see its documentation), "
            f"work offline (WANDB_MODE=offline), or leave it out of log.trackers."
        ) from error


def _begin_wandb(wandb: Any, config: TrainConfig, run_id: str) -> TrackerRun:
    run = wandb.init(
        project=config.log.project,
        id=run_id,
        name=config.out.name,
        dir=str(config.out),
        resume="allow",
        config=shown_config(config),
        settings=wandb.Settings(**WANDB_SETTINGS),
    )
    return TrackerRun(run.log, run.finish)


def _begin_trackio(trackio: Any, config: TrainConfig, run_id: str) -> TrackerRun:
    run = trackio.init(
        project=config.log.project,
        name=f"{config.out.name}-{run_id}",  # trackio resumes by name
        resume="allow",
        config=shown_config(config),
        embed=False,
        auto_log_cpu=False,
        auto_log_gpu=False,
    )
    return TrackerRun(run.log, trackio.finish)  # else trackio ends the run a second time at exit


def shown_config(config: TrainConfig) -> dict[str, Any]:
    """The configuration as flat keys, without `PLACES`."""
    flat = flatten(as_json(config))
    return {key: value for key, value in flat.items() if not any(f"{key}.".startswith(f"{part}.") for part in PLACES)}


def _run_id(folder: Path, name: str) -> str:
    path = folder / IDS_NAME
    ids: dict[str, str] = json.loads(path.read_bytes()) if path.exists() else {}
    if name not in ids:
        ids[name] = uuid.uuid4().hex[:8]
        write_bytes(path, f"{json.dumps(ids, sort_keys=True)}\n".encode())
    return ids[name]
