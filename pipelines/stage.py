"""What a stage is: one file in `pipelines/stages/`, found by its name, holding one frozen dataclass `Stage`.

A stage works on clips alone, without Ray, other stages, datasets, or the run directory. It declares the fields that it
needs and gives, and their `store`; the pipeline reads and writes them. Its work is a function from an
iterator of clips to an iterator of clips, one out for each in and in the same order, so that a stage may read ahead.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

from pipelines.clip import Clip
from pipelines.hosts import HostStates
from pipelines.schedule import Scope
from uniform.config import nearest
from uniform.errors import ConfigError
from uniform.spec import Spec

Work = Callable[[Iterator[Clip]], Iterator[Clip]]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one worker of a stage takes from a machine."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory_gb: float = 1.0
    waits: bool = False
    """The stage mostly waits for other machines: on a cluster its workers take `cpus` exactly, a fraction of a core,
    and do no work of other stages. Other stages that take up to a core share workers of one core."""


@dataclass(frozen=True)
class Store:
    """Where a stage's results are kept, one file per unit.

    tar: a WebDataset shard `<name>-<unit>.tar`; each field the stage gives is a member `<clip id>.<field>` (bytes).
    table: a Parquet file `<name>/<unit>.parquet` with clip_id and the given fields as columns.
    ledger: nothing but the ledger rows.
    """

    kind: Literal["tar", "table", "ledger"]
    name: str = ""
    caption_set: str | None = None
    """Name of the caption set that the results belong to; None for results that do not depend on captions."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a stage gets from the run when it opens."""

    spec: Spec
    roots: Mapping[str, Path] = field(default_factory=dict)
    """Dataset name to the folder that its local paths are relative to."""
    folder: Path = Path()
    """The run directory; the fetch stage keeps its media below it."""
    host_states: Callable[[Path], HostStates] | None = None
    """Opens the host states kept in a folder; None uses files in it. The Ray backend gives one store for all nodes."""
    unblocked_at_s: Mapping[str, float] = field(default_factory=dict)
    """Policy of a drop code -> seconds since 1970: a refusal of that policy from before this time does not count."""


@runtime_checkable
class Stage(Protocol):
    """The shape of every `Stage` dataclass; its fields are the options that a recipe may set.

    It may also have `reads`: the manifest columns that change its results, besides those that a clip's id is a hash
    of. When one of them changes, its units are stale. Without `reads`, every column counts.
    It may have `scope`: "unit" (the default), or "all" for a stage whose first unit must wait until the stage before it
    has committed every unit.
    """

    @property
    def needs(self) -> Sequence[str]:
        """Fields that earlier stages must have given. Row columns are always there and are not named."""
        ...

    @property
    def gives(self) -> Sequence[str]:
        """Fields that this stage adds."""
        ...

    @property
    def store(self) -> Store:
        """Where the given fields are kept."""
        ...

    @property
    def resources(self) -> Resources:
        """What one worker takes."""
        ...

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        """Everything that changes the results: options, code version, codec cards. Hashed into a fingerprint."""
        ...

    def open(self, context: Context) -> Work:
        """Load what is heavy, once per worker process, and return the work."""
        ...


def known_stages() -> list[str]:
    """Names of the files in `pipelines/stages/`."""
    return sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).with_name("stages"))]))


def stage_class(name: str) -> type:
    """The `Stage` class of the file `pipelines/stages/<name>.py`. Raises ConfigError for an unknown name."""
    known = known_stages()
    if name not in known:
        raise ConfigError(f"there is no stage '{name}'{nearest(name, known)}")
    found: type = importlib.import_module(f"pipelines.stages.{name}").Stage
    return found


def scope_of(stage: Stage) -> Scope:
    """What the stage waits for. Raises ConfigError for a word that is no scope."""
    found = getattr(stage, "scope", "unit")
    if found not in ("unit", "all"):
        raise ConfigError(f"{type(stage).__module__}: scope is {found!r}; it must be 'unit' or 'all'")
    return cast(Scope, found)


def check_order(stages: Iterable[tuple[str, Stage]]) -> None:
    """Refuse a recipe in which a stage needs a field that no earlier stage gives. Raises ConfigError."""
    given: dict[str, str] = {}
    for name, stage in stages:
        for needed in stage.needs:
            if needed not in given:
                raise ConfigError(
                    f"stage '{name}' needs '{needed}', which no stage before it gives "
                    f"(given so far: {', '.join(sorted(given)) or 'nothing'}). Put the stage that gives it first."
                )
        given.update(dict.fromkeys(stage.gives, name))
