"""`uniform shards preview`: decode some clips of a folder of shards."""

from pathlib import Path
from typing import Annotated

import typer

from cli import console
from cli.options import CodecOptions, ShardFolder
from cli.places import local_path


def preview(
    folder: ShardFolder,
    number: Annotated[int, typer.Option("-n", "--number", help="Clips to decode, evenly spaced.")] = 8,
    out: Annotated[
        Path,
        typer.Option(help="Folder that receives the MP4 files and contact_sheet.png.", parser=local_path),
    ] = Path("preview"),
    split: Annotated[str | None, typer.Option(help="Only clips of this split.")] = None,
    codec: CodecOptions = None,
) -> None:
    """Decode clips from their latents: one MP4 with audio per clip, and a contact sheet of all."""
    from uniform.codecs.options import parse_options
    from uniform.sampling.preview import preview_shards

    written = preview_shards(folder, out, clips=number, split=split, options=parse_options(codec or []))
    console.out.print(f"{len(written.videos)} clips in {out}, contact sheet: {written.sheet}", markup=False)
