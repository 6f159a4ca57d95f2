"""What a user asks of a run: manifests and a recipe for a new one, or the directory of one that exists."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.manifest.dataset import find_manifest
from pipelines.run.job import Run, new_run, open_run
from uniform.errors import PipelineError


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """The inputs of `uniform pipeline plan|run|estimate`."""

    targets: Sequence[str]
    """Manifests (TOML files, or names of those that come with the toolkit), or one run directory."""
    recipe: str | None = None
    """Name of a built-in recipe, or a TOML file."""
    out: Path | None = None
    """Run directory."""
    limit: int | None = None
    """Plan only so many clips; None plans all."""
    listing: Path | None = None
    """Listing of a manifest that does not name one."""
    root: Path | None = None
    """Folder of the media, instead of the manifest's."""
    allow_partial: bool = False
    """Accept a listing with fewer or more lines than the published one."""


def open_request(request: RunRequest) -> Run:
    """The run that is asked for.

    Raises: PipelineError where the inputs contradict each other or one is missing; ManifestError, ConfigError.
    """
    first = Path(request.targets[0])
    if len(request.targets) == 1 and first.is_dir():
        if request.out is not None and request.out.absolute() != first.absolute():
            raise PipelineError(f"{first} is a run directory; leave out --out, or give manifests instead")
        if (request.limit, request.listing, request.root) != (None, None, None):
            raise PipelineError(f"{first} is a run directory: --limit, --listing and --root go with a manifest")
        return open_run(first, request.recipe)
    if request.recipe is None or request.out is None:
        missing = "--recipe (toy: small, no weights; paper: as published)" if request.recipe is None else "--out"
        raise PipelineError(
            f"a run needs {missing}; for instance: uniform pipeline run m.toml --recipe toy --out shards"
        )
    manifests = [find_manifest(target) for target in request.targets]
    return new_run(
        manifests,
        request.recipe,
        request.out,
        limit=request.limit,
        listing=request.listing,
        root=request.root,
        partial=request.allow_partial,
    )
