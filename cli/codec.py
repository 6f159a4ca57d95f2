"""`uniform codec`: what a codec reconstructs, how fast it encodes, and whether it keeps the interface."""

from pathlib import Path
from typing import Annotated

import typer

from cli import console
from cli.group import Group
from cli.options import CodecOptions, Device

app = typer.Typer(cls=Group, help="The frozen codecs: reconstruction quality and speed.", no_args_is_help=True)

Video = Annotated[str, typer.Option(help="Video codec: dct or opensora-v1.2.")]
Audio = Annotated[str, typer.Option(help="Audio codec: dct, audioldm-s-full-v2 and others.")]
SpecName = Annotated[str, typer.Option("--spec", help="Geometry: paper or toy.")]


@app.command()
def reconstruct(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Any media file with video and audio.", exists=True)],
    video: Video = "dct",
    audio: Audio = "dct",
    spec: SpecName = "paper",
    out: Annotated[Path, typer.Option(help="Folder that receives both.mp4, both.png and scores.json.")] = Path(
        "reconstruction"
    ),
    start: Annotated[float, typer.Option(help="Start of the clip in the file, in seconds.")] = 0.0,
    device: Device = "auto",
    codec: CodecOptions = None,
) -> None:
    """Encode and decode a clip; write original and reconstruction side by side, with PSNR and log-mel error."""
    from uniform.codecs.base import open_audio_codec, open_video_codec
    from uniform.codecs.options import parse_options
    from uniform.sampling.reconstruct import reconstruct_file
    from uniform.spec import spec_by_name

    geometry, options = spec_by_name(spec), parse_options(codec or [])
    result = reconstruct_file(
        file,
        open_video_codec(video, geometry, **{"device": device, **options["video"]}),
        open_audio_codec(audio, geometry, **{"device": device, **options["audio"]}),
        geometry,
        out,
        start_ms=round(1000 * start),
    )
    for note in result["notes"]:
        console.out.print(f"note: {note}", markup=False)
    scores = result["scores"]
    console.out.print(f"PSNR {scores['psnr_db']:.2f} dB; log-mel error {scores['mel_error']:.3f} nepers", markup=False)
    console.out.print(f"written: {out / 'both.mp4'}, {out / 'both.png'}, {out / 'scores.json'}", markup=False)


@app.command()
def bench(
    video: Video = "dct",
    audio: Audio = "dct",
    spec: SpecName = "paper",
    clips: Annotated[int, typer.Option(help="Generated clips to encode, all different.")] = 16,
    batch: Annotated[int, typer.Option(help="Clips per batch.")] = 4,
    threads: Annotated[int, typer.Option(help="Threads that read clips.")] = 1,
    bf16: Annotated[bool, typer.Option("--bf16", help="Also encode in bfloat16 and compare with float32.")] = False,
    device: Device = "auto",
    codec: CodecOptions = None,
) -> None:
    """Measure clips per second, seconds per part, share of data wait, and memory."""
    from pipelines.estimate.codec_bench import run_bench
    from pipelines.stages.encode_latents import Stage
    from uniform.codecs.options import parse_options
    from uniform.spec import spec_by_name

    options = parse_options(codec or [])
    stage = Stage(
        video=video,
        audio=audio,
        video_options=options["video"],
        audio_options=options["audio"],
        device=device,
        batch_clips=batch,
        decode_threads=threads,
    )
    for line in run_bench(stage, spec_by_name(spec), clips=clips, compare_bf16=bf16).lines():
        console.out.print(line, markup=False)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A codec: built in, an entry point, or package.module:factory.")],
    kind: Annotated[str | None, typer.Option(help="video, audio or text. Default: the first that fits.")] = None,
    spec: SpecName = "toy",
    codec: CodecOptions = None,
) -> None:
    """Check that a codec, your own too, keeps the interface that the toolkit relies on. Exits with 1 if not."""
    from uniform.codecs.conformance import check_codec
    from uniform.codecs.options import parse_options
    from uniform.errors import ConfigError
    from uniform.spec import spec_by_name

    options = parse_options(codec or [])
    if kind is not None and kind not in options:
        raise ConfigError(f"--kind is '{kind}'; wanted video, audio or text")
    chosen = options[kind] if kind else next((found for found in options.values() if found), {})
    result = check_codec(name, spec_by_name(spec), kind, chosen)
    for one in result.checks:
        mark = "ok    " if one.problem is None else "FAILED"
        console.out.print(f"{mark}  {one.promise}{'' if one.problem is None else f': {one.problem}'}", markup=False)
    for note in result.notes:
        console.out.print(f"        {note}", markup=False)
    console.out.print(f"{result.kind} codec {name}, fingerprint {result.card.fingerprint}", markup=False)
    if not result.passed:
        raise typer.Exit(1)
