"""`uniform world`: generated clips with known event times, and the check that the event detectors measure them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import console
from cli.group import Group
from cli.places import local_path, writable_place

if TYPE_CHECKING:
    from uniform.evaluation.world.check import CheckReport
    from uniform.spec import Spec
    from uniform.synthetic.worlds import WorldClip

app = typer.Typer(cls=Group, help="The synthetic world: generated clips with exact event times.", no_args_is_help=True)

World = Annotated[
    str, typer.Option("--world", help="w1 bounce, w2 two balls, w3 motor, w4 ghost, w5 off-screen, w6 delay.")
]
SpecName = Annotated[str, typer.Option("--spec", help="toy (64 px, 2 s) or paper (256 px, 4 s).")]
Seed = Annotated[int, typer.Option("--seed", help="Another seed gives other clips.")]


@app.command()
def write(
    out: Annotated[
        Path,
        typer.Argument(
            help="Folder, or its URL, that receives media files, listing and manifest.", parser=writable_place
        ),
    ],
    world: World = "w1",
    clips: Annotated[int, typer.Option("--clips", help="Clips of the train split.")] = 64,
    test_clips: Annotated[
        int | None, typer.Option("--test-clips", help="Clips of the test split; default: a quarter of --clips.")
    ] = None,
    spec: SpecName = "toy",
    seed: Seed = 0,
) -> None:
    """Write a world as a dataset: media files (MP4, MOV, MKV, WebM), a listing with the event times, a manifest."""
    from uniform.spec import spec_by_name
    from uniform.storage.outputs import output_folder
    from uniform.synthetic.write import write_world

    held_out = clips // 4 if test_clips is None else test_clips
    with output_folder(out) as folder:
        manifest = write_world(world, spec_by_name(spec), folder, train_clips=clips, test_clips=held_out, seed=seed)
    place = manifest if folder == out else f"{out}/{manifest.name}"
    console.out.print(f"{clips} train and {held_out} test clips of {world}: {place}", markup=False)


@app.command()
def check(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Folder of `uniform world write --world w1`. Default: clips in memory.", parser=local_path),
    ] = None,
    clips: Annotated[int, typer.Option("--clips", help="Number of clips, where no folder is given.")] = 96,
    codecs: Annotated[
        bool, typer.Option("--codecs", help="Encode and decode every clip with the weight-free codecs.")
    ] = False,
    spec: SpecName = "toy",
    seed: Seed = 0,
) -> None:
    """Check the event detectors on true clips, with late audio, and with exchanged audio. Exits with 1 on a fault."""
    from uniform.evaluation.world.check import check_clips
    from uniform.spec import spec_by_name

    geometry = spec_by_name(spec)
    chosen = _clips(folder, clips, seed, geometry, codecs)
    report = check_clips(((clip.frames, clip.waveform, clip.truth) for clip in chosen), geometry)
    console.out.print(_table(report), markup=False)
    for failure in report.failures:
        console.out.print(f"FAILS: {failure}", markup=False)
    if not report.passes:
        raise typer.Exit(1)


@app.command()
def show(
    out: Annotated[
        Path, typer.Argument(help="PNG file: frames over the spectrogram, one clip below the other.", parser=local_path)
    ],
    world: World = "w1",
    clips: Annotated[int, typer.Option("--clips", help="Number of clips.")] = 3,
    spec: SpecName = "paper",
    seed: Seed = 0,
) -> None:
    """Draw clips of a world as one PNG."""
    import numpy as np

    from uniform.atomic import write_bytes
    from uniform.sampling.render import png_bytes, strip
    from uniform.spec import spec_by_name
    from uniform.synthetic.worlds import make_clip

    made = [make_clip(world, seed + number, spec_by_name(spec)) for number in range(clips)]
    write_bytes(out, png_bytes(np.concatenate([strip(clip.frames, clip.waveform) for clip in made])))
    for clip in made:
        console.out.print(clip.truth.caption, markup=False)


def _clips(folder: Path | None, clips: int, seed: int, spec: "Spec", codecs: bool) -> "Iterator[WorldClip]":
    from uniform.synthetic.clip_variants import from_files, from_generator, through_codecs

    chosen = from_generator("w1", range(seed, seed + clips), spec) if folder is None else from_files(folder, spec)
    if not codecs:
        return chosen
    from uniform.codecs.base import open_audio_codec, open_video_codec

    return through_codecs(chosen, spec, open_video_codec("dct", spec), open_audio_codec("dct", spec))


def _table(report: "CheckReport") -> str:
    rows = [
        ("audio against truth", report.audio, ">= 0.98"),
        ("video against truth", report.video, ">= 0.98"),
        ("audio against video", report.joint, ">= 0.98"),
        ("audio 80 ms late against truth", report.late, "<= 0.05"),
        ("audio 80 ms late against video", report.late_joint, "<= 0.05"),
        ("video with another clip's audio", report.shuffled, "0.15 to 0.30"),
        ("colour right", report.colour, ""),
        ("pitch right", report.pitch, ""),
    ]
    lines = [f"event F1 of {report.clips} clips"]
    lines += [f"  {name:<36}{value:>7.3f}   {bound}".rstrip() for name, value, bound in rows]
    return "\n".join(lines)
