"""`uniform sample`: audible video from text, video from audio, audio from video."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import console
from cli.options import COMPUTE, INPUT, OUTPUT, SAMPLER, CodecOptions, Device

if TYPE_CHECKING:
    from uniform.sampling.request import Request

Media = Annotated[
    Path | None, typer.Argument(help="A2V: a file with audio. V2A: a file with video. T2AV: leave it out.")
]
Checkpoint = Annotated[
    Path,
    typer.Option(
        "--checkpoint",
        "-c",
        help="Run directory, checkpoint, exported file or folder, or hub id owner/name.",
        rich_help_panel=INPUT,
    ),
]
TaskName = Annotated[str, typer.Option("--task", help="t2av, a2v or v2a.", rich_help_panel=INPUT)]
Text = Annotated[str | None, typer.Option(help="Caption. Optional for A2V and V2A.", rich_help_panel=INPUT)]
Prompts = Annotated[
    Path | None,
    typer.Option(
        help="File of prompts instead of --text: .txt, one per line, or .jsonl, one object per line.",
        rich_help_panel=INPUT,
    ),
]
Manifest = Annotated[
    Path | None,
    typer.Option(
        help="Manifest (TOML) or table of clips instead of --text: one sample per clip, from its caption and file.",
        rich_help_panel=INPUT,
    ),
]
Split = Annotated[str | None, typer.Option(help="With --manifest: only clips of this split.", rich_help_panel=INPUT)]
Start = Annotated[float, typer.Option(help="Start of the clip in the media file, in seconds.", rich_help_panel=INPUT)]
Number = Annotated[
    int, typer.Option("-n", "--number", help="Samples per prompt, each with the next seed.", rich_help_panel=SAMPLER)
]
Seed = Annotated[
    int,
    typer.Option(
        help="Seed of the first sample. The same seed and batch size give the same bytes.", rich_help_panel=SAMPLER
    ),
]
Steps = Annotated[int | None, typer.Option(help="Solver steps. Default: those of the solver.", rich_help_panel=SAMPLER)]
Solver = Annotated[
    str | None,
    typer.Option(
        help="ancestral, ddim or dpm++; euler or heun for flow models. Default: fits the model.",
        rich_help_panel=SAMPLER,
    ),
]
Scale = Annotated[
    float | None,
    typer.Option("--cfg", help="Text guidance scale; 1 is off. Default: the model's.", rich_help_panel=SAMPLER),
]
ScaleVideo = Annotated[
    float | None,
    typer.Option("--cfg-video", help="Text guidance scale of the video, instead of --cfg.", rich_help_panel=SAMPLER),
]
ScaleAudio = Annotated[
    float | None,
    typer.Option("--cfg-audio", help="Text guidance scale of the audio, instead of --cfg.", rich_help_panel=SAMPLER),
]
ScaleConditioning = Annotated[
    float,
    typer.Option(
        "--cfg-conditioning", help="Guidance scale of the conditioning modality; 1 is off.", rich_help_panel=SAMPLER
    ),
]
Out = Annotated[
    Path, typer.Option(help="Folder that receives MP4, WAV, PNG, JSON and index.html.", rich_help_panel=OUTPUT)
]
Name = Annotated[
    str | None,
    typer.Option(
        help="File name of the results; the prefix of each where there are several. Default: the task, or no prefix.",
        rich_help_panel=OUTPUT,
    ),
]
Latents = Annotated[bool, typer.Option("--latents", help="Also keep latents (.safetensors).", rich_help_panel=OUTPUT)]
Batch = Annotated[
    int,
    typer.Option(
        help="Samples per call of the model. Another size changes samples by rounding only.", rich_help_panel=COMPUTE
    ),
]
Ema = Annotated[bool, typer.Option("--ema/--no-ema", help="EMA or raw weights.", rich_help_panel=COMPUTE)]
Precision = Annotated[
    str,
    typer.Option(help="Of the network: bf16, fp32, or auto (bf16 on CUDA).", rich_help_panel=COMPUTE),
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
    cfg_conditioning: ScaleConditioning = 1.0,
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
    """Sample from a trained model. Repeat a stopped command to resume: finished samples are kept."""
    from cli.progress import SampleBars
    from uniform.api.pipeline import UniFormPipeline
    from uniform.sampling.gallery import require_no_other_page, write_gallery
    from uniform.sampling.open import check_choices
    from uniform.sampling.request import Request, expand_requests, milliseconds, task_by_name
    from uniform.sampling.results import require_folder

    default = Request(
        name=name or task, task=task_by_name(task), text=text, media=media, start_ms=milliseconds(start), seed=seed
    )
    requests = _requests(default, prompts, manifest, split)
    requests = expand_requests(requests, prefix=None if requests == [default] else name, count=number)
    # All checks come before the weights are loaded.
    check_choices(solver, cfg=cfg, cfg_video=cfg_video, cfg_audio=cfg_audio, cfg_given=cfg_conditioning)
    for request in requests:
        request.check()
    require_folder(out)
    require_no_other_page(out)
    pipeline = UniFormPipeline.from_pretrained(checkpoint, device=device, dtype=precision, ema=ema, codecs=codec or [])
    scales = {"guidance": cfg, "video_guidance": cfg_video, "audio_guidance": cfg_audio}
    scales["conditioning_guidance"] = cfg_conditioning
    config = pipeline.settings(solver=solver, steps=steps, batch_clips=batch, keep_latents=latents, **scales)
    try:
        with SampleBars(len(requests), config.steps) as bars:
            files = pipeline.write(requests, out, config, bars.show)
    finally:
        if out.is_dir():  # finished samples are shown, whatever stopped the rest
            page = write_gallery(out, "UniForm samples")
    for file in files:
        console.out.print(str(file), markup=False)
    console.out.print(f"gallery: {page}", markup=False)


def _requests(default: "Request", prompts: Path | None, manifest: Path | None, split: str | None) -> list["Request"]:
    """One request, or one for each line of a prompt file or clip of a manifest."""
    from uniform.errors import InputError
    from uniform.sampling.request import read_prompts, requests_from
    from uniform.tasks import Task

    if prompts is not None and manifest is not None:
        raise InputError("--prompts and --manifest exclude each other; give one of them")
    if split is not None and manifest is None:
        raise InputError("--split goes with --manifest")
    if manifest is None:
        return read_prompts(prompts, default) if prompts else [default]
    from pipelines.manifest.prompts import sample_tables

    return requests_from(manifest, sample_tables(manifest, split, with_media=default.task is not Task.T2AV), default)
