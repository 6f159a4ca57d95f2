"""`uniform shards`: check folders of latent shards, and show what they hold."""

from pathlib import Path
from typing import Annotated

import typer

from cli import console
from cli.group import Group
from cli.options import ShardFolder
from cli.places import local_path
from cli.preview import preview

app = typer.Typer(cls=Group, help="Finished latent shards: check, describe, decode.", no_args_is_help=True)
app.command("preview")(preview)


@app.command()
def lint(folder: ShardFolder) -> None:
    """Read and check every byte that the index names: tars, offsets, checksums, shapes, finite values."""
    from uniform.latents.shards.lint import require_sound

    console.out.print(f"{require_sound(folder)} clips, no problem found")


@app.command()
def info(folder: ShardFolder) -> None:
    """Show spec, codecs, captions, splits, sizes and statistics of a folder of shards."""
    from uniform.latents.format import identity
    from uniform.latents.shards.lint import info as read_info

    found = read_info(folder)
    card = found.card
    lines = [f"{card.clips} clips of {', '.join(card.datasets)}; digest of their ids {card.ids_digest}"]
    if card.windows > 1:
        lines.append(f"  {card.windows} windows in each clip, one starting at each whole second")
    lines += [f"  split {name}: {count} clips" for name, count in found.splits.items()]
    lines += [
        f"  {column}: {count} shards, {found.bytes[column] / 1e6:.1f} MB" for column, count in found.shards.items()
    ]
    lines += [f"  {name}: {value}" for name, value in identity(card).items()]
    lines += [
        f"  captions '{name}': {text['codec']['name']} {text['codec']['fingerprint']}, made by {text['captions']}"
        for name, text in card.texts.items()
    ]
    for modality, statistics in card.statistics.items():
        for kind, values in statistics.items():
            lines.append(f"  {modality} {kind}: {' '.join(f'{value:.4f}' for value in values)}")
    lines += [f"  {code}: {count} clips" for code, count in card.counts.items()]
    for line in lines:
        console.out.print(line, markup=False)


@app.command()
def difficulty(
    folder: ShardFolder,
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run trained on it with log.sample_losses=true.", parser=local_path)
    ],
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="Clips to show, the most difficult first.")] = 20,
    since: Annotated[
        int | None, typer.Option(min=1, help="Count samples from this step on. Default: the second half of the run.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write all clips to this Parquet file.", parser=local_path)] = None,
) -> None:
    """Show which clips a run found difficult, with and without their captions. It finds mismatched captions."""
    from rich.table import Table
    from rich.text import Text

    from uniform.training.reporting.clip_difficulty import explain_losses, write_clip_difficulty

    found = explain_losses(folder, run, since)
    captions = _captions_of(folder)
    table = Table("clip", "set", "excess (samples)", "without text", "caption", box=None, pad_edge=False)
    for row in found[:number]:
        without = "" if row.excess_without is None else f"{row.excess_without:+.3f} ({row.samples_without})"
        caption = captions.get((row.caption_set, row.clip_id), "")
        table.add_row(row.clip_id, row.caption_set, f"{row.excess:+.3f} ({row.samples})", without, Text(caption))
    console.show_table(table)
    console.out.print(
        f"{len(found)} clips and sets, the most difficult first. Excess loss: 0 is the usual loss of the task "
        f"and timestep, +0.693 is twice it. Difficult with its text only: the caption is wrong; "
        f"without text too: the clip is unusual."
    )
    if out is not None:
        write_clip_difficulty(out, found)
        console.out.print(f"written: {out}", markup=False)


def _captions_of(folder: Path) -> dict[tuple[str, str], str]:
    """(set, clip id) to caption, where the folder is a run directory; copied shards hold text features only."""
    from pipelines.captions.sets import read_sets
    from pipelines.run.folder import RunFolder
    from uniform.errors import PipelineError

    try:
        sets = read_sets(RunFolder(folder))
    except PipelineError:
        return {}
    return {(name, clip): one.caption for name, found in sets.items() for clip, one in found.kept.items()}
