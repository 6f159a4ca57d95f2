"""From manifests and a recipe to a run: which clips in which units, in which run directory."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipelines.clip import Row
from pipelines.disk import writing_to
from pipelines.manifest.build import clips_of
from pipelines.manifest.cross_dataset_duplicates import mark_cross_dataset_duplicates
from pipelines.manifest.table import table_of
from pipelines.recipe import Recipe, read_recipe, recipe_path
from pipelines.run.folder import RunFolder
from pipelines.run.record import RunRecord, read_run_record
from pipelines.run.units import Units, first_units, in_order, no_units
from pipelines.stage import Context
from uniform.errors import ManifestError, PipelineError


@dataclass(frozen=True, kw_only=True)
class Run:
    """Which clips to process, with which recipe, in which directory. Nothing is written before `Run.write`."""

    folder: RunFolder
    recipe: Recipe
    roots: Mapping[str, Path]
    """Dataset -> folder that its local paths are relative to."""
    clips: pa.Table | None = None
    """The clips that the manifests name now; None keeps those of the run directory."""
    limit: int | None = None
    """Plan only so many clips, the first ones in the order of the units."""
    sample: tuple[str, ...] | None = None
    """Plan only these clips, as an estimate does."""
    sample_cuts: tuple[tuple[int, int], ...] = ()
    """How the sample is cut: up to which of its clips, and how many clips a unit holds at most."""
    recipe_source: str = ""
    """Name or path that the recipe was read from; empty for one made in Python."""

    @property
    def context(self) -> Context:
        """What stages get when they open."""
        return Context(
            spec=self.recipe.spec,
            roots=dict(self.roots),
            folder=self.folder.path.absolute(),
            unblocked_at_s=self.folder.unblocked_at_s(),
        )

    def units(self) -> Units:
        """The units of the run directory, and further ones for clips that are new to it.

        Raises: PipelineError where the manifest has no clip, or lacks one that was planned.
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
                f"A committed shard is never written again: restore the rows, or choose another --out."
            )
        if self.sample is not None:
            return self._with_sample(Units(planned.plan, self.clips))
        added = [clip_id for clip_id in in_order(named)[: self.limit] if clip_id not in planned.last_unit]
        units = Units(planned.plan, self.clips)
        return units.with_clips(added, self.recipe.unit_clips, "added") if added else units

    def _with_sample(self, planned: Units) -> Units:
        if planned.origins & {"first", "added"}:
            raise PipelineError(
                f"{self.folder.path}: the full run has begun here, so there is nothing left to estimate: "
                f"uniform pipeline status {self.folder.path}. Choose another --out for an estimate."
            )
        added = [clip_id for clip_id in self.sample or () if clip_id not in planned.last_unit]
        begin = 0
        for end, unit_clips in self.sample_cuts:
            part = added[begin:end]
            planned = planned.with_clips(part, min(unit_clips, self.recipe.unit_clips), "pilot") if part else planned
            begin = end
        return planned

    def write(self, units: Units) -> None:
        """Write the clips, the units and run.json. The caller holds the lock of the run directory."""
        record = RunRecord(
            recipe=self.recipe.name,
            recipe_source=self.recipe_source,
            spec=self.recipe.spec,
            stages=self.recipe.names,
            roots=self.roots,
        )
        with writing_to(self.folder.path):
            units.write(self.folder)
            record.write(self.folder)


def make_run(
    rows: Sequence[Row], recipe: Recipe, out: Path, roots: Mapping[str, Path] | None = None, limit: int | None = None
) -> Run:
    """A run over manifest rows. Raises ManifestError where two rows have the same clip id."""
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
    """A run over the datasets of one or more manifests, or of tables built from them.

    Args:
        recipe: name of a built-in recipe, or a TOML file.
        listing: the listing of a manifest that has none of its own.
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
                raise ManifestError(f"{path}: a second dataset called '{name}' with another root; rename one")
    return Run(
        folder=RunFolder(out),
        recipe=read_recipe(recipe),
        roots=roots,
        clips=_unique(table_of(mark_cross_dataset_duplicates(rows))),
        limit=limit,
        recipe_source=_stored(recipe),
    )


def open_run(out: Path, recipe: str | Path | None = None) -> Run:
    """The run of a run directory, with its own recipe or another. Raises PipelineError where it is no run directory."""
    record = read_run_record(RunFolder(out))
    source = recipe or record.recipe_source
    if not source:
        raise PipelineError(f"{out}: its recipe was made in Python; name one: --recipe toy")
    return Run(folder=RunFolder(out), recipe=read_recipe(source), roots=record.roots, recipe_source=_stored(source))


def _stored(recipe: str | Path) -> str:
    """A recipe's source as run.json keeps it: a shipped recipe's name, or an absolute path."""
    path = recipe_path(recipe)
    return recipe if isinstance(recipe, str) and path != Path(recipe) else str(path.absolute())


def _unique(clips: pa.Table) -> pa.Table:
    ids = clips["clip_id"].to_pylist()
    if len(set(ids)) != len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise ManifestError(
            f"clip {twice} is named twice: one manifest was given twice, or two manifests name the same clip"
        )
    return clips
