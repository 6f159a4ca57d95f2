"""`uniform sample`: audible video from text, video from sound, sound from video."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli import console


def sample(
    media: Annotated[
        Path | None, typer.Argument(help="A2V: any file with sound. V2A: any file with a picture. T2AV: leave it out.")
    ] = None,
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", "-c", help="Run folder, checkpoint folder, or exported .safetensors.")
    ] = Path("run"),
    task: Annotated[str, typer.Option(help="t2av, a2v or v2a.")] = "t2av",
    text: Annotated[str | None, typer.Option(help="Caption. A2V and V2A may go without.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="File of prompts instead of --text: .txt, one a line, or .jsonl, one object a line."),
    ] = None,
    number: Annotated[int, typer.Option("-n", "--number", help="Samples per prompt, each with the next seed.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the first sample; the same seed gives the same bytes.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Solver steps. Default: the solver's usual number.")] = None,
    solver: Annotated[
        str | None, typer.Option(help="ancestral, ddim, dpm++; euler, heun for flow. Default: fits the model.")
    ] = None,
    cfg: Annotated[float | None, typer.Option(help="Guidance by the text; 1 is none. Default: the model's.")] = None,
    cfg_video: Annotated[float | None, typer.Option(help="Guidance for the picture, instead of --cfg.")] = None,
    cfg_audio: Annotated[float | None, typer.Option(help="Guidance for the sound, instead of --cfg.")] = None,
    cfg_given: Annotated[float, typer.Option(help="Guidance by the given modality; 1 is none.")] = 1.0,
    start: Annotated[float, typer.Option(help="Second of the media file where the given clip starts.")] = 0.0,
    out: Annotated[Path, typer.Option(help="Folder that receives MP4, WAV, PNG, JSON and index.html.")] = Path(
        "samples"
    ),
    name: Annotated[str | None, typer.Option(help="File name of the results. Default: the task.")] = None,
    batch: Annotated[int, typer.Option(help="Samples per call of the model.")] = 4,
    latents: Annotated[bool, typer.Option("--latents", help="Keep the latents too (.safetensors).")] = False,
    ema: Annotated[bool, typer.Option("--ema/--no-ema", help="Averaged weights, or the raw ones.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    codec: Annotated[
        list[str] | None, typer.Option(help="Option of a codec: KIND.OPTION=VALUE, e.g. video.weights=FOLDER.")
    ] = None,
) -> None:
    """Sample from a trained model. Stop and repeat the command at will: finished samples are kept."""
    from uniform.sampling.gallery import write_gallery
    from uniform.sampling.open import open_sampler, sample_config
    from uniform.sampling.request import Request, read_prompts, several, task_by_name

    default = Request(
        name=name or task, task=task_by_name(task), text=text, media=media, start_ms=round(1000 * start), seed=seed
    )
    requests = read_prompts(prompts, default) if prompts else [default]
    if number != 1:
        requests = [one for request in requests for one in several(request, number)]
    for request in requests:
        request.check()
    sampler = open_sampler(checkpoint, ema=ema, device=device, codec=codec or [])
    config = sample_config(
        sampler, solver=solver, steps=steps, cfg=cfg, cfg_video=cfg_video, cfg_audio=cfg_audio, cfg_given=cfg_given,
        batch_clips=batch, keep_latents=latents,
    )  # fmt: skip
    with _progress() as bar:
        whole = bar.add_task("samples", total=len(requests))
        inner = bar.add_task("steps", total=config.steps)

        def show(state: "object") -> None:
            bar.update(whole, completed=state.done)  # type: ignore[attr-defined]
            bar.update(inner, completed=state.step)  # type: ignore[attr-defined]

        files = sampler.run(requests, out, config, show)
    for file in files:
        console.out.print(str(file), markup=False)
    console.out.print(f"gallery: {write_gallery(out, 'UniForm samples')}", markup=False)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console.err,
        disable=not console.err.is_terminal,
    )
