"""`uniform pipeline`: plan, pilot, run, status, retry, explain, report."""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import console, tables
from uniform.formatting import format_duration

if TYPE_CHECKING:
    from pipelines.run.job import Run

app = typer.Typer(help="Turn data sets into latent shards. Stop and restart at will.", no_args_is_help=True)

Targets = Annotated[
    list[str],
    typer.Argument(
        metavar="MANIFEST...", help="Manifests (TOML, or names of those that come along); or a run's folder."
    ),
]
RecipeName = Annotated[str | None, typer.Option("--recipe", help="Name of a built-in recipe, or a TOML file.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the run; it receives the shards.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Plan only so many clips.")]
Listing = Annotated[Path | None, typer.Option("--listing", help="Listing of a manifest that does not bring its own.")]
Root = Annotated[Path | None, typer.Option("--root", help="Folder of the media, in place of the manifest's.")]
Partial = Annotated[bool, typer.Option("--partial", help="Accept a listing shorter or longer than the published one.")]
Until = Annotated[str | None, typer.Option("--until", help="Stop after this stage.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Worker processes; the default is one per core.")]
Inline = Annotated[bool, typer.Option("--inline", help="Work in this process, without Ray.")]
Address = Annotated[str | None, typer.Option(help="Address of a Ray cluster.")]
ReplaceStale = Annotated[bool, typer.Option("--replace-stale", help="Make units again that were made in another way.")]
Folder = Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a run.")]


@app.command()
def plan(
    targets: Targets,
    recipe: RecipeName = None,
    out: Out = None,
    until: Until = None,
    limit: Limit = None,
    listing: Listing = None,
    root: Root = None,
    partial: Partial = False,
) -> None:
    """Show what a run would do: units that are done, stale (and why) or new. Writes nothing."""
    from pipelines.run.plan import PlanBuilder

    run = _run(targets, recipe, out, limit, listing, root, partial)
    units = run.units()
    survey = PlanBuilder(run.folder, run.recipe, units).survey(run.recipe.until(until))
    table = tables.table("stage", "done", "stale", "new", "clips done", "s/clip", "time left")
    for stage in survey.states:
        tally = survey.tally(stage)
        done, stale, new = (survey.of(stage, condition) for condition in ("done", "stale", "new"))
        seconds = sum(state.commit.seconds for state in done if state.commit)
        pace = seconds / tally.clips if tally.clips else None
        left = sum(len(units.ids(state.unit)) for state in (*stale, *new))
        cells = (
            (f"{pace:.3f}", format_duration(pace * left))
            if pace is not None
            else ("?", "?" if left else format_duration(0))
        )
        table.add_row(stage, str(len(done)), str(len(stale)), str(len(new)), str(tally.clips), *cells)
    console.show_table(table)
    total = len(units.last_unit)
    console.out.print(f"{total} clips in {len(units)} units of {run.recipe.unit_clips}; spec '{run.recipe.spec.name}'")
    for state in survey.stale[:10]:
        console.out.print(f"stale: {state.stage}, unit {state.unit}: {'; '.join(state.reasons)}", markup=False)
    if len(survey.stale) > 10:
        console.out.print(f"and {len(survey.stale) - 10} stale units more")


@app.command()
def run(
    targets: Targets,
    recipe: RecipeName = None,
    out: Out = None,
    until: Until = None,
    workers: Workers = None,
    inline: Inline = False,
    address: Address = None,
    limit: Limit = None,
    replace_stale: ReplaceStale = False,
    listing: Listing = None,
    root: Root = None,
    partial: Partial = False,
) -> None:
    """Turn data sets into latent shards. Run it again and it goes on where it stopped."""
    _one_thread()
    from pipelines.estimate.comparison import compare_with_prediction
    from pipelines.run.pipeline import run_pipeline

    chosen = _run(targets, recipe, out, limit, listing, root, partial)
    with contextlib.ExitStack() as stack:
        engine = _engine(stack, inline, workers, address)
        listener = _listener(stack)
        outcome = run_pipeline(chosen, engine, listener, until=until, replace_stale=replace_stale)
    tables.show_tallies(outcome.stages, outcome.final)
    console.out.print(
        f"{outcome.units_made} units made, {outcome.units_found} found done, in {format_duration(outcome.seconds)}"
    )
    if outcome.indexed is not None:
        console.out.print(f"{outcome.indexed} clips in {chosen.folder.index}", markup=False)
    elif until is None:
        console.out.print("No index: no clip is left, or the recipe makes no latents.")
    tables.show_comparison(compare_with_prediction(chosen.folder, list(outcome.stages), chosen.units()))
    console.out.print(f"Next: uniform pipeline report {chosen.folder.path}", markup=False)


@app.command()
def pilot(
    targets: Targets,
    clips: Annotated[int, typer.Option("--clips", min=1, help="Clips of the sample.")] = 200,
    recipe: RecipeName = None,
    out: Out = None,
    workers: Workers = None,
    inline: Inline = False,
    address: Address = None,
    replace_stale: ReplaceStale = False,
    listing: Listing = None,
    root: Root = None,
    partial: Partial = False,
) -> None:
    """Run a fair sample, and foretell time, bytes and survivors of the whole. The run goes on with its work."""
    _one_thread()
    from pipelines.estimate.pilot import run_pilot

    chosen = _run(targets, recipe, out, None, listing, root, partial)
    with contextlib.ExitStack() as stack:
        engine = _engine(stack, inline, workers, address)
        outcome, prediction = run_pilot(chosen, clips, engine, _listener(stack), replace_stale=replace_stale)
    tables.show_tallies(outcome.stages, outcome.final)
    tables.show_prediction(prediction)
    console.out.print(f"kept: {chosen.folder.prediction}", markup=False)
    words = [*targets, "--recipe", recipe or chosen.recipe_source, "--out", str(chosen.folder.path)]
    console.out.print(f"Next: uniform pipeline run {' '.join(words)}", markup=False)


@app.command()
def status(
    folder: Folder,
    hours: Annotated[int, typer.Option("--hours", min=0, help="Show the last so many hours of work.")] = 6,
) -> None:
    """Show how far a run is, what became of its clips, hour by hour, and when it will end."""
    from pipelines.estimate.eta import forecasts
    from pipelines.run.folder import RunFolder
    from pipelines.run.job import remembered
    from pipelines.run.status import stage_statuses
    from pipelines.run.units import Units

    place = RunFolder(folder)
    stages = remembered(place)["stages"]
    units = Units.read(place)
    tables.show_statuses(stage_statuses(place, stages, units), forecasts(place, stages, units), hours)
    console.out.print(f"{len(units.last_unit)} clips planned in {len(units)} units")
    unplanned = units.clips.num_rows - len(units.last_unit)
    if unplanned:
        console.out.print(f"{unplanned} clips of the manifest are not planned yet: give the run its manifests again")


@app.command()
def retry(
    folder: Folder,
    code: Annotated[str, typer.Option("--code", help="Ledger code of the clips to plan again.")],
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Even a code that is final, such as truncated: for you who have repaired the files. "
            "What is still wrong leaves with its code again.",
        ),
    ] = False,
) -> None:
    """Plan clips again that left for a reason that may have passed. The next run does them."""
    from pipelines.run.folder import RunFolder
    from pipelines.run.job import open_run, remembered
    from pipelines.run.retry import plan_again

    place = RunFolder(folder)
    unit_clips = open_run(folder).recipe.unit_clips if remembered(place)["recipe_source"] else None
    made = plan_again(place, code, unit_clips, force=force)
    if not made:
        console.out.print(f"No clip has the code '{code}'.")
        return
    console.out.print(f"Planned again in {len(made)} units: {made[0]} to {made[-1]}")
    console.out.print(f"Next: uniform pipeline run {folder}", markup=False)


@app.command()
def explain(folder: Folder, clip_id: Annotated[str, typer.Argument(metavar="CLIP", help="Id of a clip.")]) -> None:
    """Tell everything that happened to one clip."""
    from pipelines.report.clip_history import story
    from pipelines.run.folder import RunFolder
    from pipelines.run.job import remembered
    from pipelines.run.units import Units

    place = RunFolder(folder)
    tables.show_clip_history(story(place, remembered(place)["stages"], Units.read(place), clip_id))


@app.command()
def report(
    folder: Folder,
    html: Annotated[Path | None, typer.Option("--html", help="Where the page goes; default OUT/report.html.")] = None,
) -> None:
    """Write an HTML page: the funnel of the stages, every code, survivors by split and label."""
    from pipelines.estimate.comparison import compare_with_prediction
    from pipelines.report.page import write_report
    from pipelines.run.folder import RunFolder
    from pipelines.run.job import remembered
    from pipelines.run.units import Units

    place = RunFolder(folder)
    written = write_report(place, html)
    tables.show_comparison(compare_with_prediction(place, remembered(place)["stages"], Units.read(place)))
    console.out.print(f"written: {written}", markup=False)


def _run(
    targets: list[str],
    recipe: str | None,
    out: Path | None,
    limit: int | None,
    listing: Path | None,
    root: Path | None,
    partial: bool,
) -> "Run":
    from pipelines.manifest.build import find_manifest
    from pipelines.run.job import new_run, open_run
    from uniform.errors import PipelineError

    if len(targets) == 1 and Path(targets[0]).is_dir():
        if out is not None and out.absolute() != Path(targets[0]).absolute():
            raise PipelineError(f"{targets[0]} is the folder of a run; leave out --out, or give its manifests instead")
        if limit is not None or listing is not None or root is not None:
            raise PipelineError(f"{targets[0]} is a run's folder: --limit, --listing and --root go with a manifest")
        return open_run(Path(targets[0]), recipe)
    if recipe is None or out is None:
        missing = "--recipe (toy: small, no weights; paper: as published)" if recipe is None else "--out"
        raise PipelineError(
            f"a run needs {missing}; for instance: uniform pipeline run m.toml --recipe toy --out shards"
        )
    manifests = [find_manifest(target) for target in targets]
    return new_run(manifests, recipe, out, limit=limit, listing=listing, root=root, partial=partial)


def _one_thread() -> None:
    """One thread per sum, here as in the workers: else the number of cores would change the last bits of latents."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def _engine(stack: contextlib.ExitStack, inline: bool, workers: int | None, address: str | None) -> Any:
    from pipelines.run.pipeline import InlineBackend
    from uniform.errors import PipelineError

    if inline:
        if workers is not None or address is not None:
            raise PipelineError("--inline works in this process alone; leave out --workers and --address")
        return InlineBackend()
    from pipelines.cluster.backend import RayBackend

    return stack.enter_context(RayBackend(workers=workers, address=address))


def _listener(stack: contextlib.ExitStack) -> Any:
    from pipelines.run.pipeline import LogListener

    if not console.err.is_terminal:
        return LogListener()
    from cli.progress import Bars

    return stack.enter_context(Bars())
