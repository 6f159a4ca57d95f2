"""`uniform pipeline`: plan, estimate, run, status, nodes, retry, history, report."""

import contextlib
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import console, tables
from cli.group import Group
from cli.options import INPUT, Address, AllowPartial, Inline, Recipe, Root, RunOut, Workers
from cli.places import local_name, local_path
from uniform.formatting import format_duration

app = typer.Typer(
    cls=Group,
    help="Turn datasets into latent shards. Every command can be stopped and repeated.",
    no_args_is_help=True,
)

Targets = Annotated[
    list[str],
    typer.Argument(
        metavar="MANIFEST...",
        help="Manifests (TOML files, or names of the built-in ones), or one run directory.",
        parser=local_name,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Run directory; it receives the shards.", rich_help_panel=INPUT, parser=local_path),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Plan only so many clips.", rich_help_panel=INPUT)]
Listing = Annotated[
    Path | None,
    typer.Option(
        "--listing",
        help="Listing of a manifest that does not name one.",
        rich_help_panel=INPUT,
        parser=local_path,
    ),
]
Until = Annotated[str | None, typer.Option("--until", help="Stop after this stage.")]
ReplaceStale = Annotated[
    bool, typer.Option("--replace-stale", help="Make units again whose options or inputs have changed.")
]


@app.command()
def plan(
    targets: Targets,
    recipe: Recipe = None,
    out: Out = None,
    until: Until = None,
    limit: Limit = None,
    listing: Listing = None,
    root: Root = None,
    allow_partial: AllowPartial = False,
) -> None:
    """Show what a run would do: which units are done, stale (and why) or new. Writes nothing."""
    from pipelines.run.request import RunRequest, open_request

    request = RunRequest(
        targets=targets, recipe=recipe, out=out, limit=limit, listing=listing, root=root, allow_partial=allow_partial
    )
    tables.show_plan(open_request(request), until)


@app.command()
def run(
    targets: Targets,
    recipe: Recipe = None,
    out: Out = None,
    until: Until = None,
    workers: Workers = None,
    inline: Inline = False,
    address: Address = None,
    limit: Limit = None,
    replace_stale: ReplaceStale = False,
    listing: Listing = None,
    root: Root = None,
    allow_partial: AllowPartial = False,
) -> None:
    """Turn datasets into latent shards. Run the same command again to resume a stopped run."""
    _use_one_thread()
    from pipelines.cluster.choice import open_backend
    from pipelines.estimate.comparison import compare_with_prediction
    from pipelines.run.pipeline import run_pipeline
    from pipelines.run.request import RunRequest, open_request

    request = RunRequest(
        targets=targets, recipe=recipe, out=out, limit=limit, listing=listing, root=root, allow_partial=allow_partial
    )
    chosen = open_request(request)
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(open_backend(inline=inline, workers=workers, address=address))
        result = run_pipeline(chosen, backend, _listener(stack), until=until, replace_stale=replace_stale)
    tables.show_tallies(result.stages, result.final)
    console.out.print(
        f"{result.units_made} units made, {result.units_found} units found done, in {format_duration(result.seconds)}"
    )
    if result.indexed is not None:
        console.out.print(f"{result.indexed} clips in {chosen.folder.index}", markup=False)
    elif until is None:
        console.out.print("No index was written: no clip was kept, or the recipe makes no latents.")
    tables.show_comparison(compare_with_prediction(chosen.folder, list(result.stages), chosen.units()))
    console.out.print(f"Next: uniform pipeline report {chosen.folder.path}", markup=False)


@app.command()
def estimate(
    targets: Targets,
    clips: Annotated[int, typer.Option("--clips", min=1, help="Clips of the sample.")] = 200,
    recipe: Recipe = None,
    out: Out = None,
    workers: Workers = None,
    inline: Inline = False,
    address: Address = None,
    replace_stale: ReplaceStale = False,
    listing: Listing = None,
    root: Root = None,
    allow_partial: AllowPartial = False,
) -> None:
    """Run a representative sample (a pilot) and predict time, bytes and kept clips of the whole run.

    The sample's units belong to the run: `uniform pipeline run` does not make them again.
    """
    _use_one_thread()
    from pipelines.cluster.choice import open_backend
    from pipelines.estimate.pilot import run_pilot
    from pipelines.run.request import RunRequest, open_request

    request = RunRequest(
        targets=targets, recipe=recipe, out=out, listing=listing, root=root, allow_partial=allow_partial
    )
    chosen = open_request(request)
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(open_backend(inline=inline, workers=workers, address=address))
        result, prediction = run_pilot(chosen, clips, backend, _listener(stack), replace_stale=replace_stale)
    tables.show_tallies(result.stages, result.final)
    tables.show_prediction(prediction)
    console.out.print(f"written: {chosen.folder.prediction}", markup=False)
    arguments = [*targets, "--recipe", recipe or chosen.recipe_source, "--out", str(chosen.folder.path)]
    console.out.print(f"Next: uniform pipeline run {' '.join(arguments)}", markup=False)


@app.command()
def status(
    folder: RunOut,
    hours: Annotated[int, typer.Option("--hours", min=0, help="Show the last so many hours of work.")] = 6,
) -> None:
    """Show the progress of each stage, the drop codes, the last hours of work, and the expected end."""
    tables.show_run_status(folder, hours)


@app.command()
def nodes(
    address: Annotated[str, typer.Option("--address", help="Address of a Ray cluster.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Run directory that every node must see; it must exist.", parser=local_path),
    ] = None,
) -> None:
    """Check each node of a Ray cluster: package and Python version, run directory, free disk, clock."""
    from pipelines.cluster.nodes import check_nodes
    from pipelines.cluster.session import cluster_connection

    with cluster_connection(address, fix="Check --address"):
        reports = check_nodes(None if out is None else out.absolute())
    tables.show_nodes(reports)
    if any(report.problem for report in reports):
        raise typer.Exit(1)


@app.command()
def retry(
    folder: RunOut,
    code: Annotated[str, typer.Option("--code", help="Drop code of the clips to plan again.")],
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Accept a code that is final, such as truncated: for files that were repaired since. "
            "A clip that still fails is dropped with its code again.",
        ),
    ] = False,
) -> None:
    """Plan clips again that were dropped for a reason that may have passed. The next run processes them."""
    from pipelines.run.retry import retry_code

    made = retry_code(folder, code, force=force)
    if not made:
        console.out.print(f"No clip has the code '{code}'.")
        return
    console.out.print(f"Planned again in {len(made)} units: {made[0]} to {made[-1]}")
    console.out.print(f"Next: uniform pipeline run {folder}", markup=False)


@app.command()
def history(folder: RunOut, clip_id: Annotated[str, typer.Argument(metavar="CLIP", help="Id of a clip.")]) -> None:
    """Show everything that happened to one clip."""
    tables.show_clip_history(folder, clip_id)


@app.command()
def report(
    folder: RunOut,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Path of the page. Default: OUT/report.html.", parser=local_path),
    ] = None,
) -> None:
    """Write an HTML page: clips per stage, every drop code with examples, kept clips by split and label."""
    from pipelines.report.page import write_report
    from pipelines.run.folder import RunFolder

    written = write_report(RunFolder(folder), html)
    tables.show_run_comparison(folder)
    console.out.print(f"written: {written}", markup=False)


def _use_one_thread() -> None:
    """Use one thread per sum, as the workers do: the number of cores must not change the last bits of latents."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def _listener(stack: contextlib.ExitStack) -> Any:
    from pipelines.run.pipeline import LogListener

    if not console.err.is_terminal:
        return LogListener()
    from cli.progress import Bars

    return stack.enter_context(Bars())
