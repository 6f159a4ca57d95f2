"""The state of a run: which units of which stages are committed. Read once, then extended by new commits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.run.commits import Commit, read_commit
from pipelines.run.folder import RunFolder
from uniform.errors import PipelineError
from uniform.fingerprint import canonical_json


@dataclass(frozen=True)
class RunState:
    """Units x stages -> commit, or None where a unit is not committed."""

    commits: Mapping[str, Sequence[Commit | None]]
    """Stage -> the commit of each unit, in the order of the units."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, in the order of the recipe."""
        return tuple(self.commits)

    def committed(self, stage: str, unit: int) -> Commit:
        """The commit of a unit. Raises PipelineError where there is none."""
        commit = self.commits[stage][unit]
        if commit is None:
            raise PipelineError(f"unit {unit} was not committed by stage '{stage}'; run that stage first")
        return commit

    def finished(self, stage: str) -> list[Commit]:
        """The commits of a stage, in the order of the units."""
        return [commit for commit in self.commits[stage] if commit is not None]

    def with_commits(self, commits: Iterable[Commit]) -> "RunState":
        """This state and further commits."""
        extended = {stage: list(found) for stage, found in self.commits.items()}
        for commit in commits:
            extended[commit.stage][commit.unit] = commit
        return replace(self, commits={stage: tuple(found) for stage, found in extended.items()})

    def without(self, stage: str, units: Iterable[int]) -> "RunState":
        """This state without the commits of some units of a stage."""
        left_out = frozenset(units)
        if not left_out:
            return self
        kept = tuple(None if unit in left_out else commit for unit, commit in enumerate(self.commits[stage]))
        return replace(self, commits={**self.commits, stage: kept})


def read_run_state(folder: RunFolder, stages: Sequence[str], units: int) -> RunState:
    """Read the commit markers of a run: each one once.

    Args:
        stages: names of the stages, in the order of the recipe.
        units: number of units.
    Raises: PipelineError where a marker is damaged.
    """
    shared: dict[str, Any] = {}
    return RunState(
        {
            stage: tuple(_shared(read_commit(folder.commit(stage, unit)), shared) for unit in range(units))
            for stage in stages
        }
    )


def _shared(commit: Commit | None, shared: dict[str, Any]) -> Commit | None:
    """The commit, with one object for provenance that many units have in common: it may be large."""
    if commit is None:
        return None
    common = {
        key: shared.setdefault(canonical_json(value), value)
        for key, value in commit.inputs.items()
        if key in ("provenance", "spec")
    }
    return replace(commit, inputs={**commit.inputs, **common})
