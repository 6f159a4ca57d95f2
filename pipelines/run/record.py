"""run.json: what a run directory is. One typed record, one reader, one writer."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.run.folder import RunFolder
from uniform.atomic import write_bytes
from uniform.errors import ConfigError, PipelineError
from uniform.spec import Spec

RUN_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Recipe, spec, stages and roots of a run."""

    recipe: str
    """The recipe's name."""
    recipe_source: str
    """Name or path that the recipe was read from; empty for one made in Python."""
    spec: Spec
    stages: tuple[str, ...]
    """Names of the stages, in order."""
    roots: Mapping[str, Path]
    """Dataset -> folder that its local paths are relative to."""

    def write(self, folder: RunFolder) -> None:
        """Write run.json, whole or not at all. The caller holds the lock of the run directory."""
        values = {
            **asdict(self),
            "format": RUN_FORMAT,
            "spec": self.spec.as_dict(),
            "roots": {name: str(root) for name, root in self.roots.items()},
        }
        write_bytes(folder.run, f"{json.dumps(values, indent=1, sort_keys=True)}\n".encode())


def read_run_record(folder: RunFolder) -> RunRecord:
    """Read run.json. Raises PipelineError where it is missing, damaged, or of another format."""
    try:
        values: dict[str, Any] = json.loads(folder.run.read_bytes())
        version = values["format"]
        if version == RUN_FORMAT:
            return _record(values)
    except FileNotFoundError as error:
        raise PipelineError(
            f"{folder.path} is not a run directory ({folder.run.name} is missing). Start a run: "
            f"uniform pipeline run MANIFEST.toml --recipe toy --out {folder.path}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise PipelineError(
            f"{folder.run}: cannot be read ({error}). Run the same `uniform pipeline run` command again: it writes "
            f"this file anew and keeps what is committed."
        ) from error
    raise PipelineError(f"{folder.run}: format {version}, this toolkit reads {RUN_FORMAT}; choose another --out")


def _record(values: Mapping[str, Any]) -> RunRecord:
    recipe, source, stages = values["recipe"], values["recipe_source"], values["stages"]
    if not (isinstance(recipe, str) and isinstance(source, str) and isinstance(stages, list)):
        raise TypeError("recipe and recipe_source must be texts, stages a list")
    return RunRecord(
        recipe=recipe,
        recipe_source=source,
        spec=Spec(**values["spec"]),
        stages=tuple(str(stage) for stage in stages),
        roots={name: Path(root) for name, root in values["roots"].items()},
    )
