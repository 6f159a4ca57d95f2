"""`uniform evaluate`: measure samples against real clips under a protocol, and let people compare them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli import console
from cli.evaluate_options import (
    AllowUnequal,
    Cache,
    CaptionedSet,
    Checkpoint,
    CodecRow,
    Decoders,
    DeviceName,
    MediaRoot,
    Metrics,
    OutFolder,
    OutPlace,
    ProtocolName,
    RealSet,
    Reference,
    RequireKnown,
    Resume,
    Samples,
    SkipMissing,
    Strict,
    WeightsFolder,
    World,
    WorldSpec,
    evaluation_options,
    words,
)
from cli.group import Group
from cli.options import CodecOptions
from cli.places import local_path

DEFAULT = "run"
"""The command that `uniform evaluate SAMPLES` stands for."""


class DefaultGroup(Group):
    """A group whose first word may be left out: `uniform evaluate SAMPLES` is `uniform evaluate run SAMPLES`."""

    default_command = DEFAULT

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Put the default command before arguments that name no command."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "--install-completion"):
            args = [self.default_command, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=DefaultGroup,
    no_args_is_help=True,
    help="Measure samples against real clips: uniform evaluate SAMPLES --real FOLDER. A folder that is called like a "
    "command is written ./NAME.",
)


@app.command()
def run(
    samples: Samples,
    real: RealSet = None,
    protocol: ProtocolName = "offline",
    out: OutPlace = None,
    metrics: Metrics = None,
    weights: WeightsFolder = None,
    device: DeviceName = "cpu",
    workers: Decoders = 2,
    resume: Resume = True,
    root: MediaRoot = None,
    allow_unequal: AllowUnequal = False,
    skip_missing: SkipMissing = False,
    require_known: RequireKnown = False,
    cache: Cache = None,
    codec_row: CodecRow = None,
    reference: Reference = None,
    codec: CodecOptions = None,
    strict: Strict = False,
    world: World = None,
    spec: WorldSpec = "toy",
) -> None:
    """Distances, scores and intervals of samples against real clips; or, with --world, against exact truth."""
    if world is not None:
        _judge_world(samples, world, spec, out)
        return
    from cli.evaluate_output import EvaluationBars, now_text, show_evaluation
    from uniform.errors import InputError
    from uniform.evaluation.protocol import read_protocol
    from uniform.evaluation.result import write_result
    from uniform.evaluation.run import evaluate

    if real is None:
        raise InputError("--real names the clips to compare with; --world a generated world. Give one of them.")
    rules = read_protocol(protocol, words(metrics))
    options = evaluation_options(
        weights,
        device,
        workers,
        root,
        allow_unequal,
        skip_missing,
        require_known,
        cache,
        codec_row,
        reference,
        codec,
        rules.protocol,
    )
    started = now_text()
    folder = out or Path("evaluation")
    with EvaluationBars() as bars:
        found = evaluate(samples, real, rules, options, progress=bars.show)
        result = write_result(found, folder, started)
    show_evaluation(result, found.rows, folder)
    if strict and found.drops:
        raise typer.Exit(1)


@app.command()
def tables(
    checkpoint: Checkpoint,
    real: CaptionedSet,
    protocol: ProtocolName = "table1_v2a_vggsound",
    out: OutFolder = Path("tables"),
    task: Annotated[str | None, typer.Option("--task", help="Only this task of the protocol.")] = None,
    metrics: Metrics = None,
    steps: Annotated[int | None, typer.Option(help="Solver steps. Default: those of the solver.")] = None,
    solver: Annotated[str | None, typer.Option(help="Solver. Default: fits the model.")] = None,
    cfg: Annotated[float | None, typer.Option("--cfg", help="Text guidance scale. Default: the model's.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples per call of the model.")] = 4,
    weights: WeightsFolder = None,
    device: DeviceName = "cpu",
    workers: Decoders = 2,
    root: MediaRoot = None,
    allow_unequal: AllowUnequal = False,
    skip_missing: SkipMissing = False,
    require_known: RequireKnown = False,
    cache: Cache = None,
    codec_row: CodecRow = None,
    reference: Reference = None,
    codec: CodecOptions = None,
) -> None:
    """Make a paper's table from a checkpoint: sample what is missing, evaluate, print it beside the printed rows."""
    from cli.evaluate_output import EvaluationBars, now_text, show_differences, show_paper_table
    from cli.evaluate_sampling import table_sampler
    from uniform.evaluation.paper_tables import make_tables
    from uniform.evaluation.protocol import read_protocol
    from uniform.evaluation.result import write_result

    rules = read_protocol(protocol, words(metrics))
    options = evaluation_options(
        weights,
        device,
        workers,
        root,
        allow_unequal,
        skip_missing,
        require_known,
        cache,
        codec_row,
        reference,
        codec,
        rules.protocol,
    )
    sampler = table_sampler(
        checkpoint, solver=solver, steps=steps, cfg=cfg, batch=batch, device=device, codec=codec or []
    )
    started = now_text()
    with EvaluationBars() as bars:
        made = make_tables(rules, real, out, sampler, options, tasks=[task] if task else [], progress=bars.show)
        for arm in made.arms:
            write_result(arm.evaluation, out / arm.name, started)
    show_paper_table(made, rules)
    show_differences(made.differences)
    console.out.print(f"written: {', '.join(str(out / arm.name) for arm in made.arms)}", markup=False)


@app.command()
def pairs(
    first: Annotated[Path, typer.Argument(help="One set of samples: a folder or a list.", parser=local_path)],
    second: Annotated[Path, typer.Argument(help="Another set of samples of the same clips.", parser=local_path)],
    real: Annotated[Path, typer.Option("--real", help="Real clips: a folder or a list.", parser=local_path)],
    protocol: ProtocolName = "offline",
    metrics: Metrics = None,
    weights: WeightsFolder = None,
    device: DeviceName = "cpu",
    workers: Decoders = 2,
    root: MediaRoot = None,
    allow_unequal: AllowUnequal = False,
    skip_missing: SkipMissing = False,
    require_known: RequireKnown = False,
    cache: Cache = None,
) -> None:
    """Compare two sets of samples clip by clip: which is better, and is the difference more than chance?"""
    from cli.evaluate_output import EvaluationBars, show_differences
    from uniform.evaluation.paired import compare
    from uniform.evaluation.protocol import read_protocol
    from uniform.evaluation.run import evaluate

    rules = read_protocol(protocol, words(metrics))
    options = evaluation_options(
        weights,
        device,
        workers,
        root,
        allow_unequal,
        skip_missing,
        require_known,
        cache,
        None,
        None,
        None,
        rules.protocol,
    )
    with EvaluationBars() as bars:
        one, two = (evaluate(side, real, rules, options, progress=bars.show) for side in (first, second))
    show_differences({f"{first} against {second}": compare(one, two)})


@app.command()
def doctor(
    weights: WeightsFolder = None,
    protocol: Annotated[str | None, typer.Option("--protocol", help="Also: what of this protocol can be run.")] = None,
) -> None:
    """Show which networks can be run here, whether their weights are the published ones, and what is missing."""
    from cli.evaluate_output import show_readiness
    from uniform.evaluation.extractors.catalogue import default_folder
    from uniform.evaluation.protocol import read_protocol
    from uniform.evaluation.readiness import readiness, without

    found = readiness(weights or default_folder())
    rules = None if protocol is None else read_protocol(protocol)
    missing = None if rules is None else without(found, [metric.name for metric in rules.protocol.chosen])
    show_readiness(found, protocol, missing)


@app.command()
def page(
    first: Annotated[Path, typer.Argument(help="One set of samples: a folder or a list.", parser=local_path)],
    second: Annotated[Path, typer.Argument(help="The other set.", parser=local_path)],
    out: Annotated[
        Path, typer.Option("--out", help="The HTML page; its key goes beside it.", parser=local_path)
    ] = Path("rating.html"),
    seed: Annotated[int, typer.Option(help="Of the order of pairs and sides.")] = 0,
    most: Annotated[int | None, typer.Option(min=1, help="So many pairs, drawn by the seed. Default: all.")] = None,
    question: Annotated[str, typer.Option(help="What raters are asked.")] = "Which clip is better?",
    link: Annotated[
        bool, typer.Option("--link", help="Leave the clips where they are; their addresses show which set is which.")
    ] = False,
) -> None:
    """Write one page for blind side-by-side rating of two sets of samples by people."""
    from uniform.evaluation.rating_page import write_rating_page

    made = write_rating_page(first, second, out, seed=seed, most=most, question=question, embed=not link)
    alone = f"; {made.left_out} clips that only one set has are left out" if made.left_out else ""
    console.out.print(f"written: {made.path} ({made.pairs} pairs{alone})", markup=False)
    console.out.print(f"key, to be kept from raters: {made.path.with_suffix('.key.json')}", markup=False)


@app.command()
def ratings(
    files: Annotated[
        list[Path], typer.Argument(help="What raters saved from the page, one file a rater.", parser=local_path)
    ],
    key: Annotated[Path, typer.Option("--key", help="NAME.key.json beside the page.", parser=local_path)] = Path(
        "rating.key.json"
    ),
) -> None:
    """Preference with its 95% interval over clips, and how far raters agree."""
    from cli.evaluate_output import show_preference
    from uniform.evaluation.ratings import preference

    show_preference(preference(files, key))


def _judge_world(samples: Path, world: Path, spec: str, out: Path | None) -> None:
    from uniform.evaluation.world.result import write_judgement
    from uniform.evaluation.world.sample_scores import read_samples, score_samples
    from uniform.spec import spec_by_name

    geometry = spec_by_name(spec)
    scored = score_samples(read_samples(samples, world, geometry), geometry)
    for task, measures in scored.items():
        console.out.print(f"{task}", markup=False)
        for name, measure in measures.items():
            interval = f"[{measure.low:.3f}, {measure.high:.3f}]"
            line = (
                f"  {name:<18}{measure.mean:>7.3f}  {interval:<16}  chance {measure.chance:.3f}  {measure.clips} clips"
            )
            console.out.print(line, markup=False)
    if out is not None:
        for path in write_judgement(scored, samples, world, out):
            console.out.print(f"written: {path}", markup=False)
