"""`uniform shards`: check a folder of latent shards, and say what it holds."""

import importlib
import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from cli import console

app = typer.Typer(help="Look at finished latent shards.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder with index.parquet and card.json.")]


@app.command()
def lint(folder: Folder) -> None:
    """Read every byte that the index names: whole tars, true offsets and sums, finite arrays of the right shape."""
    from pipelines.lint import require_sound

    console.out.print(f"{require_sound(folder)} clips, no problem found")


@app.command()
def info(folder: Folder) -> None:
    """Say what a folder of shards is: spec, codecs, captions, splits, sizes, statistics."""
    from pipelines.lint import info as read_info
    from uniform.latents.format import identity

    found = read_info(folder)
    card = found.card
    lines = [f"{card.clips} clips of {', '.join(card.datasets)}; digest of their ids {card.ids_digest}"]
    if card.windows > 1:
        lines.append(f"  {card.windows} windows in each clip, one beginning at each whole second")
    lines += [f"  split {name}: {count} clips" for name, count in found.splits.items()]
    lines += [
        f"  {column}: {count} shards, {found.bytes[column] / 1e6:.1f} MB" for column, count in found.shards.items()
    ]
    lines += [f"  {name}: {value}" for name, value in identity(card).items()]
    lines += [
        f"  captions '{name}': {text['codec']['name']} {text['codec']['fingerprint']}, made by {text['captions']}"
        for name, text in card.texts.items()
    ]
    for modality, numbers in card.statistics.items():
        for kind, values in numbers.items():
            lines.append(f"  {modality} {kind}: {' '.join(f'{value:.4f}' for value in values)}")
    lines += [f"  {code}: {count} clips" for code, count in card.counts.items()]
    for line in lines:
        console.out.print(line, markup=False)


if importlib.util.find_spec("cli.preview"):
    app.command("preview")(importlib.import_module("cli.preview").preview)
