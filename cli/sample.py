"""`uniform sample`: audible video from text, video from sound, sound from video."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import console

if TYPE_CHECKING:
    from uniform.sampling.request import Request

Media = Annotated[
    Path | None, typer.Argument(help="A2V: any file with sound. V2A: any file with a picture. T2AV: leave it out.")
]
Checkpoint = Annotated[
    Path, typer.Option("--checkpoint", "-c", help="Run folder, checkpoint folder, or exported .safetensors.")
]
TaskName = Annotated[str, typer.Option("--task", help="t2av, a2v or v2a.")]
Text = Annotated[str | None, typer.Option(help="Caption. A2V and V2A may go without.")]
Prompts = Annotated[
    Path | None, typer.Option(help="File of prompts instead of --text: .txt, one a line, or .jsonl, one object a line.")
]
Manifest = Annotated[
    Path | None,
    typer.Option(
        help="Manifest (TOML) or table of clips instead of --text: a sample per clip, from its caption and file."
    ),
]
Split = Annotated[str | None, typer.Option(help="With --manifest: only clips of this split.")]
Number = Annotated[int, typer.Option("-n", "--number", help="Samples per prompt, each with the next seed.")]
Seed = Annotated[
    int, typer.Option(help="Seed of the first sample; the same seed gives the same bytes, in batches of one size.")
]
Steps = Annotated[int | None, typer.Option(help="Solver steps. Default: the solver's usual number.")]
Solver = Annotated[
    str | None, typer.Option(help="ancestral, ddim or dpm++; euler or heun for flow. Default: fits the model.")
]
Scale = Annotated[float | None, typer.Option("--cfg", help="Guidance by the text; 1 is none. Default: the model's.")]
ScaleVideo = Annotated[float | None, typer.Option("--cfg-video", help="Guidance for the picture, instead of --cfg.")]
ScaleAudio = Annotated[float | None, typer.Option("--cfg-audio", help="Guidance for the sound, instead of --cfg.")]
ScaleGiven = Annotated[float, typer.Option("--cfg-given", help="Guidance by the given modality; 1 is none.")]
Start = Annotated[float, typer.Option(help="Second of the media file where the given clip starts.")]
Out = Annotated[Path, typer.Option(help="Folder that receives MP4, WAV, PNG, JSON and index.html.")]
Name = Annotated[
    str | None,
    typer.Option(help="File name of the results; of many, what each name begins with. Default: the task, or nothing."),
]
Batch = Annotated[
    int, typer.Option(help="Samples per call of the model; another number changes samples by rounding only.")
]
Latents = Annotated[bool, typer.Option("--latents", help="Keep the latents too (.safetensors).")]
Ema = Annotated[bool, typer.Option("--ema/--no-ema", help="Averaged weights, or the raw ones.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Precision = Annotated[str, typer.Option(help="Of the network: bf16, fp32, or auto, which is bf16 on CUDA.")]
CodecOptions = Annotated[
    list[str] | None, typer.Option("--codec", help="Option of a codec: KIND.OPTION=VALUE, e.g. video.weights=FOLDER.")
]


def sample(
    media: Media = None,
    checkpoint: Checkpoint = Path("run"),
    task: TaskName = "t2av",
    text: Text = None,
    prompts: Prompts = None,
    manifest: Manifest = None,
    split: Split = None,
    number: Number = 1,
    seed: Seed = 0,
    steps: Steps = None,
    solver: Solver = None,
    cfg: Scale = None,
    cfg_video: ScaleVideo = None,
    cfg_audio: ScaleAudio = None,
    cfg_given: ScaleGiven = 1.0,
    start: Start = 0.0,
    out: Out = Path("samples"),
    name: Name = None,
    batch: Batch = 4,
    latents: Latents = False,
    ema: Ema = True,
    device: Device = "auto",
    precision: Precision = "auto",
    codec: CodecOptions = None,
) -> None:
    """Sample from a trained model. Stop and repeat the command at will: finished samples are kept."""
    from cli.progress import SampleBars
    from uniform.sampling.gallery import require_no_other_page, write_gallery
    from uniform.sampling.open import check_choices, open_sampler, sample_config
    from uniform.sampling.request import Request, milliseconds, spread, task_by_name
    from uniform.sampling.results import require_folder

    default = Request(
        name=name or task, task=task_by_name(task), text=text, media=media, start_ms=milliseconds(start), seed=seed
    )
    requests = _requests(default, prompts, manifest, split)
    requests = spread(requests, prefix=None if requests == [default] else name, count=number)
    scales = {"cfg": cfg, "cfg_video": cfg_video, "cfg_audio": cfg_audio, "cfg_given": cfg_given}
    check_choices(solver, **scales)  # all this before the weights are loaded
    for request in requests:
        request.check()
    require_folder(out)
    require_no_other_page(out)
    sampler = open_sampler(checkpoint, ema=ema, device=device, precision=precision, codec=codec or [])
    config = sample_config(sampler, solver, steps, batch_clips=batch, keep_latents=latents, **scales)
    try:
        with SampleBars(len(requests), config.steps) as bars:
            files = sampler.run(requests, out, config, bars.show)
    finally:
        if out.is_dir():  # what was made is shown, whatever stopped the rest
            page = write_gallery(out, "UniForm samples")
    for file in files:
        console.out.print(str(file), markup=False)
    console.out.print(f"gallery: {page}", markup=False)


def _requests(default: "Request", prompts: Path | None, manifest: Path | None, split: str | None) -> list["Request"]:
    """What is asked for: one sample, or one for each line of a file or clip of a manifest."""
    from uniform.errors import InputError
    from uniform.sampling.request import read_prompts, requests_from
    from uniform.tasks import Task

    if prompts is not None and manifest is not None:
        raise InputError("--prompts and --manifest both say what to sample; give one of them")
    if split is not None and manifest is None:
        raise InputError("--split goes with --manifest")
    if manifest is None:
        return read_prompts(prompts, default) if prompts else [default]
    from pipelines.manifest.prompts import sample_tables

    return requests_from(manifest, sample_tables(manifest, split, with_media=default.task is not Task.T2AV), default)
