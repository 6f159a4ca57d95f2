"""From manifests and a recipe to a run: which clips in which units, and what the run's folder remembers of itself."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.clip import Row
from pipelines.disk import writing_to
from pipelines.manifest.build import clips_of
from pipelines.manifest.cross_dataset_duplicates import mark_cross_dataset_duplicates
from pipelines.recipe import Recipe, read_recipe, recipe_path
from pipelines.run.folder import RunFolder
from pipelines.run.units import Units, first_units, in_order, no_units, table_of
from pipelines.stage import Context
from uniform.atomic import write_bytes
from uniform.errors import ManifestError, PipelineError

RUN_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is to be prepared, with which recipe, in which folder. Nothing is written before `Run.write`."""

    folder: RunFolder
    recipe: Recipe
    roots: Mapping[str, Path]
    """Data set -> folder that its local paths are relative to."""
    clips: pa.Table | None = None
    """The clips that the manifests name now; None keeps those of the folder."""
    limit: int | None = None
    """Plan only so many clips, the first ones in the order of the units."""
    sample: tuple[str, ...] | None = None
    """Plan only these clips, as a pilot does."""
    sample_cuts: tuple[tuple[int, int], ...] = ()
    """How the sample is cut: up to which of its clips, and how many clips a unit holds at most."""
    recipe_source: str = ""
    """Name or path that the recipe was read from; empty for one made in Python."""

    @property
    def context(self) -> Context:
        """What the stages may know."""
        return Context(
            spec=self.recipe.spec,
            roots=dict(self.roots),
            folder=self.folder.path.absolute(),
            unblocked_at_s=self.folder.unblocked_at_s(),
        )

    def units(self) -> Units:
        """The units of the folder, with further ones for clips that it does not know yet.

        Raises: PipelineError where the manifest names no clip, or no longer names one that was planned.
        """
        begun = self.folder.units.exists() and (self.folder.path / "commits").exists()
        if self.clips is None:
            return Units.read(self.folder)
        if not begun and self.sample is not None:
            return self._with_sample(no_units(self.clips))
        if not begun:
            return first_units(self.clips, self.recipe.unit_clips, self.limit)
        planned = Units.read(self.folder)
        named = self.clips["clip_id"].to_pylist()
        gone = sorted(set(planned.last_unit) - set(named))
        if gone:
            raise PipelineError(
                f"{self.folder.path}: {len(gone)} planned clips are no longer in the manifest, the first is {gone[0]}. "
                f"A committed shard is never opened again: restore the rows, or choose another --out."
            )
        if self.sample is not None:
            return self._with_sample(Units(planned.plan, self.clips))
        added = [clip_id for clip_id in in_order(named)[: self.limit] if clip_id not in planned.last_unit]
        units = Units(planned.plan, self.clips)
        return units.with_clips(added, self.recipe.unit_clips, "added") if added else units

    def _with_sample(self, planned: Units) -> Units:
        if planned.origins & {"first", "added"}:
            raise PipelineError(
                f"{self.folder.path}: the whole run has begun here, so there is nothing left to foretell: "
                f"uniform pipeline status {self.folder.path}. Choose another --out for a pilot."
            )
        added = [clip_id for clip_id in self.sample or () if clip_id not in planned.last_unit]
        begin = 0
        for end, unit_clips in self.sample_cuts:
            part = added[begin:end]
            planned = planned.with_clips(part, min(unit_clips, self.recipe.unit_clips), "pilot") if part else planned
            begin = end
        return planned

    def write(self, units: Units) -> None:
        """Let the folder remember the run. The caller holds the folder's lock."""
        told = {
            "format": RUN_FORMAT,
            "recipe": self.recipe.name,
            "recipe_source": self.recipe_source,
            "spec": self.recipe.spec.as_dict(),
            "stages": list(self.recipe.names),
            "roots": {name: str(root) for name, root in self.roots.items()},
        }
        with writing_to(self.folder.path):
            units.write(self.folder)
            write_bytes(self.folder.run, f"{json.dumps(told, indent=1, sort_keys=True)}\n".encode())


def make_run(
    rows: Sequence[Row], recipe: Recipe, out: Path, roots: Mapping[str, Path] | None = None, limit: int | None = None
) -> Run:
    """A run over manifest rows that exist already. Raises ManifestError where a clip id is there twice."""
    return Run(folder=RunFolder(out), recipe=recipe, roots=roots or {}, clips=_unique(table_of(rows)), limit=limit)


def new_run(
    manifests: Sequence[Path],
    recipe: str | Path,
    out: Path,
    *,
    limit: int | None = None,
    listing: Path | None = None,
    root: Path | None = None,
    partial: bool = False,
) -> Run:
    """A run over the data sets of one or more manifests, or of tables built from them.

    Args:
        recipe: name of a built-in recipe, or a TOML file.
        listing: the listing of a manifest that does not bring its own.
        root: folder of the media, in place of the manifest's.
        partial: accept a listing that holds another number of lines than was published.
    Raises: ManifestError, ConfigError, PipelineError.
    """
    if len(manifests) > 1 and (listing or root):
        raise PipelineError("--listing and --root belong to one manifest; give several manifests without them")
    rows: list[Row] = []
    roots: dict[str, Path] = {}
    for path in manifests:
        clips, folders = clips_of(path, listing, root, partial=partial)
        rows += clips
        for name, folder in folders.items():
            if roots.setdefault(name, folder) != folder:
                raise ManifestError(f"{path}: a second data set called '{name}' with another root; rename one")
    return Run(
        folder=RunFolder(out),
        recipe=read_recipe(recipe),
        roots=roots,
        clips=_unique(table_of(mark_cross_dataset_duplicates(rows))),
        limit=limit,
        recipe_source=_lasting(recipe),
    )


def open_run(out: Path, recipe: str | Path | None = None) -> Run:
    """The run that a folder remembers, with its own recipe or another. Raises PipelineError where it is not a run."""
    told = remembered(RunFolder(out))
    source = recipe or told["recipe_source"]
    if not source:
        raise PipelineError(f"{out}: its recipe was made in Python; name one: --recipe toy")
    roots = {name: Path(root) for name, root in told["roots"].items()}
    return Run(folder=RunFolder(out), recipe=read_recipe(source), roots=roots, recipe_source=_lasting(source))


def remembered(folder: RunFolder) -> dict[str, Any]:
    """What a run's folder says of itself. Raises PipelineError where it is not a run, or of another format."""
    try:
        told: dict[str, Any] = json.loads(folder.run.read_bytes())
        version, _ = told["format"], (told["stages"], told["roots"], told["recipe_source"])
    except FileNotFoundError as error:
        raise PipelineError(
            f"{folder.path} is not the folder of a run ({folder.run.name} is missing). Start one: "
            f"uniform pipeline run MANIFEST.toml --recipe toy --out {folder.path}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(
            f"{folder.run}: cannot be understood ({error}). Start the run again; it goes on."
        ) from error
    if version != RUN_FORMAT:
        raise PipelineError(f"{folder.run}: format {version}, this toolkit knows {RUN_FORMAT}; choose another --out")
    return told


def _lasting(recipe: str | Path) -> str:
    path = recipe_path(recipe)
    return recipe if isinstance(recipe, str) and path != Path(recipe) else str(path.absolute())


def _unique(clips: pa.Table) -> pa.Table:
    ids = clips["clip_id"].to_pylist()
    if len(set(ids)) != len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise ManifestError(f"clip {twice} is named twice: one manifest was given twice, or two name the same clip")
    return clips
