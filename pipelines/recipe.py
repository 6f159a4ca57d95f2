"""A recipe: which stages a clip goes through, in which order, with which options.

    name = "toy"
    spec = "toy"                 # or a table with the fields of uniform.spec.Spec
    unit_clips = 8               # clips per unit of work, and per shard

    [codecs.video]               # what stages must agree on: see pipelines/recipe_head.py
    name = "dct"

    [[stage]]
    use = "caption"              # the file pipelines/stages/caption.py
    as = "caption-labels"        # name of this use of it; the default is the file's name
    set = "labels"               # every other key is an option of the stage

A stage takes each field it needs from the nearest stage before it that gives the field.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from pipelines.builtin import shipped_recipes
from pipelines.recipe_head import HEAD_TABLES, Head, inherited, read_head, require_agreement
from pipelines.schedule import Schedule, check_stage_names
from pipelines.stage import Stage, check_order, stage_class
from uniform.config import Document, build, convert, nearest, read_toml
from uniform.errors import ConfigError
from uniform.spec import SPECS, Spec, spec_by_name

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_STORE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9][A-Za-z0-9_-]*)*")
_RESERVED = ("ledger", "members", "commits")
_KEYS = ("name", "spec", "unit_clips", "stage")
_OPTIONAL_KEYS = HEAD_TABLES


@dataclass(frozen=True)
class StageStep:
    """One use of a stage in a recipe."""

    name: str
    stage: Stage


@dataclass(frozen=True)
class Recipe:
    """Stages in order. `make_recipe` and `read_recipe` make checked ones."""

    name: str
    spec: Spec
    unit_clips: int
    steps: tuple[StageStep, ...]
    schedule: Schedule = field(default_factory=Schedule)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the steps, in order."""
        return tuple(step.name for step in self.steps)

    def step(self, name: str) -> StageStep:
        """The step called `name`. Raises ConfigError for an unknown name."""
        if name not in self.names:
            raise ConfigError(f"recipe '{self.name}' has no stage '{name}'{nearest(name, self.names)}")
        return self.steps[self.names.index(name)]

    def previous(self, name: str) -> StageStep | None:
        """The stage whose kept clips reach the stage `name`; None for the first."""
        place = self.names.index(name)
        return self.steps[place - 1] if place else None

    def producers(self, name: str) -> dict[str, StageStep]:
        """For each field that the stage `name` needs: the nearest stage before it that gives it."""
        return self._producers[name]

    @cached_property
    def _producers(self) -> dict[str, dict[str, StageStep]]:
        latest: dict[str, StageStep] = {}
        found: dict[str, dict[str, StageStep]] = {}
        for step in self.steps:
            found[step.name] = {field: latest[field] for field in step.stage.needs}
            latest.update(dict.fromkeys(step.stage.gives, step))
        return found

    def ancestors(self, name: str) -> tuple[StageStep, ...]:
        """Every stage that the results of the stage `name` are made from, in order."""
        wanted = {producer.name for producer in self.producers(name).values()}
        for earlier in reversed(self.steps[: self.names.index(name)]):
            if earlier.name in wanted:
                wanted.update(producer.name for producer in self.producers(earlier.name).values())
        return tuple(step for step in self.steps if step.name in wanted)

    def until(self, name: str | None) -> tuple[StageStep, ...]:
        """The stages up to and with `name`; all of them for None."""
        if name is None:
            return self.steps
        return self.steps[: self.names.index(self.step(name).name) + 1]


def make_recipe(
    name: str,
    spec: Spec,
    unit_clips: int,
    stages: Sequence[tuple[str, Stage]],
    schedule: Schedule | None = None,
) -> Recipe:
    """A checked recipe from stages.

    Raises: ConfigError where two stages share a name or a store, a name cannot be a folder, or a stage needs a field
        that no stage before it gives; where the schedule names a stage that is not there.
    """
    if unit_clips < 1:
        raise ConfigError(f"recipe '{name}': unit_clips is {unit_clips}; it must be 1 or more")
    if not stages:
        raise ConfigError(f"recipe '{name}' has no stage; add a [[stage]] table")
    stores: dict[str, str] = {}
    for instance, stage in stages:
        if not _NAME.fullmatch(instance):
            raise ConfigError(
                f"recipe '{name}': '{instance}' cannot name a stage; use small letters, digits, '-' and '_'"
            )
        if [other for other, _ in stages].count(instance) > 1:
            raise ConfigError(f"recipe '{name}': two stages are called '{instance}'; give one another name with 'as'")
        _claim_store(name, instance, stage, stores)
    check_order(stages)
    limits = schedule or Schedule()
    check_stage_names(limits, [instance for instance, _ in stages])
    return Recipe(name, spec, unit_clips, tuple(StageStep(*pair) for pair in stages), limits)


def _claim_store(recipe: str, instance: str, stage: Stage, taken: dict[str, str]) -> None:
    store = stage.store
    if store.kind == "ledger":
        if stage.gives:
            raise ConfigError(f"stage '{instance}' gives {', '.join(stage.gives)} but has no store: set its store")
        return
    if not _STORE.fullmatch(store.name) or store.name in _RESERVED or (store.kind == "tar" and "/" in store.name):
        raise ConfigError(f"recipe '{recipe}': stage '{instance}' cannot store its results as '{store.name}'")
    if store.name in taken:
        raise ConfigError(
            f"recipe '{recipe}': stages '{taken[store.name]}' and '{instance}' both store their results as "
            f"'{store.name}'; give one of them another set"
        )
    taken[store.name] = instance


def read_recipe(source: str | Path) -> Recipe:
    """Read a recipe from a TOML file, or one of the built-in ones by its name.

    Raises: ConfigError that names file, line, key, what was found and what was wanted.
    """
    document = read_toml(recipe_path(source))
    for key in document.values:
        if key not in (*_KEYS, *_OPTIONAL_KEYS):
            raise ConfigError(f"{document.where(key)}: unknown key '{key}'{nearest(key, (*_KEYS, *_OPTIONAL_KEYS))}")
    for key in _KEYS:
        if key not in document.values:
            raise ConfigError(f"{document.path}: '{key}' is missing; it must be set")
    tables = document.values["stage"]
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
        raise ConfigError(f"{document.where('stage')}: 'stage' must be a list of tables: write [[stage]]")
    head = read_head(document)
    stages = [_read_stage(table, number, document, head) for number, table in enumerate(tables)]
    name = convert(str, document.values["name"], document, "name")
    unit_clips = convert(int, document.values["unit_clips"], document, "unit_clips")
    try:
        require_agreement((use, stage) for use, _, stage in stages)
        return make_recipe(
            name, _read_spec(document), unit_clips, [(name, stage) for _, name, stage in stages], head.schedule
        )
    except ConfigError as error:
        raise ConfigError(f"{document.path}: {error}") from error


def recipe_path(source: str | Path) -> Path:
    """The file of a recipe that is given by path or by name. Raises ConfigError that lists the known names."""
    if isinstance(source, Path) or source.endswith(".toml") or "/" in source:
        return Path(source)
    known = shipped_recipes()
    if source not in known:
        raise ConfigError(
            f"there is no recipe '{source}'{nearest(source, known)}. "
            f"A recipe of your own is given by its path: --recipe mine.toml"
        )
    return known[source]


def _read_spec(document: Document) -> Spec:
    value = document.values["spec"]
    if isinstance(value, Mapping):
        return build(Spec, value, document, "spec")
    name = convert(str, value, document, "spec")
    if name not in SPECS:
        raise ConfigError(f"{document.where('spec')}: there is no spec '{name}'{nearest(name, SPECS)}")
    return spec_by_name(name)


def _read_stage(table: Mapping[str, Any], number: int, document: Document, head: Head) -> tuple[str, str, Stage]:
    """Name of the stage's file, name of this use of it, and the stage."""
    prefix = f"stage[{number}]"
    if "use" not in table:
        raise ConfigError(f"{document.where('stage')}: {prefix} has no 'use'; name a file of pipelines/stages/")
    use = convert(str, table["use"], document, f"{prefix}.use")
    name = convert(str, table.get("as", use), document, f"{prefix}.as")
    try:
        found = stage_class(use)
    except ConfigError as error:
        raise ConfigError(f"{document.where('use')}: {error}") from error
    options = {key: value for key, value in table.items() if key not in ("use", "as")}
    options = inherited(head, use, options, document, prefix)
    return use, name, cast(Stage, build(found, options, document, prefix))
