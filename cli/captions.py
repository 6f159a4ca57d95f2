"""`uniform captions`: look at the sets of captions of a run, compare, edit and take them back."""

from pathlib import Path
from typing import Annotated

import typer

from cli import console

app = typer.Typer(help="Show, compare, export, import and judge sets of captions.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a run.")]
SetName = Annotated[str, typer.Option("--set", help="Name of a set of captions.")]


@app.command()
def show(
    folder: Folder,
    name: Annotated[list[str] | None, typer.Option("--set", help="Only this set; may be given more than once.")] = None,
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="Clips to show.")] = 10,
    clip: Annotated[str | None, typer.Option(help="Only this clip, by its id.")] = None,
    refused: Annotated[bool, typer.Option("--refused", help="Only clips that were refused, with the reason.")] = False,
) -> None:
    """Show captions, set by set."""
    from pipelines.captions.sets import read_sets
    from pipelines.run.folder import RunFolder
    from uniform.errors import InputError

    shown = 0
    for one in read_sets(RunFolder(folder), name).values():
        codes = ", ".join(f"{count} {code}" for code, count in sorted(one.codes.items()))
        console.out.print(f"{one.name} (stage {one.stage}): {codes}", markup=False, style="bold")
        wanted = [c for c in one.captions.values() if clip in (None, c.clip_id) and (c.code != "ok" or not refused)]
        for caption in wanted[:number]:
            again = f", attempt {caption.attempt}" if caption.attempt and caption.attempt > 1 else ""
            told = (
                f"{caption.origin}{again}: {caption.caption}"
                if caption.code == "ok"
                else f"{caption.code}: {caption.reason}"
            )
            console.out.print(f"  {caption.clip_id}  {told}", markup=False)
            shown += 1
        if len(wanted) > number:
            console.out.print(f"  and {len(wanted) - number} more (-n {len(wanted)})", markup=False)
    if clip is not None and not shown:
        raise InputError(f"{folder}: no set has a clip '{clip}'; ids are those of manifest.parquet")


@app.command()
def diff(
    folder: Folder,
    first: Annotated[str, typer.Argument(metavar="SET", help="A set of captions.")],
    second: Annotated[str, typer.Argument(metavar="OTHER", help="Another one.")],
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="Clips to show.")] = 10,
) -> None:
    """Show which captions differ between two sets, word by word."""
    from rich.text import Text

    from pipelines.captions.sets import differences, read_sets
    from pipelines.run.folder import RunFolder

    sets = read_sets(RunFolder(folder), [first, second])
    one, other = sets[first], sets[second]
    found = differences(one, other)
    both = len(one.kept.keys() & other.kept.keys())
    console.out.print(
        f"{both} clips have both: {len(found)} differ, {both - len(found)} are the same; only in {first}: "
        f"{len(one.kept.keys() - other.kept.keys())}, only in {second}: {len(other.kept.keys() - one.kept.keys())}",
        markup=False,
    )
    styles = {"same": "", "gone": "red strike", "new": "green"}
    marks = {"same": "{}", "gone": "[-{}-]", "new": "{{+{}+}}"}
    for difference in found[:number]:
        line = Text(f"  {difference.clip_id} ")
        for kind, words in difference.words:
            line.append(" ").append(marks[kind].format(words), styles[kind])
        console.out.print(line)


@app.command()
def export(
    folder: Folder,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A .csv or .parquet file to write.")],
    name: SetName,
) -> None:
    """Write a set as a table for people to edit."""
    from pipelines.captions.sets import export_set
    from pipelines.run.folder import RunFolder

    count = export_set(RunFolder(folder), name, path)
    console.out.print(f"{count} captions in {path}", markup=False)
    console.out.print(f"Next: uniform captions import {folder} {path} --set human --base {name}", markup=False)


@app.command("import")
def import_captions(
    folder: Folder,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The edited table, .csv or .parquet.")],
    name: SetName,
    base: Annotated[
        str | None, typer.Option(help="The set it was exported from: what was not edited keeps text and origin.")
    ] = None,
) -> None:
    """Take an edited table into the run as a new set; changed captions have the origin "human"."""
    from pipelines.captions.sets import import_set
    from pipelines.run.folder import RunFolder

    made = import_set(RunFolder(folder), path, name, base)
    console.out.print(f"{made.human} captions by people, {made.kept} as they were, in {made.path}", markup=False)
    if made.missing:
        console.out.print(
            f"{made.missing} clips of the run have no caption in it: the stage would reject them as caption_missing."
            + ("" if base else " Give --base to keep another set's."),
            markup=False,
        )
    block = f'[[stage]]\nuse = "caption"\nas = "caption-{name}"\nset = "{name}"\nsource = "file"\nfile = "{made.path}"'
    console.out.print(f"The stage that reads it, for the recipe:\n\n{block}", markup=False)


@app.command()
def sheet(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="Folder that receives captions.html and the clips.")] = Path("captions"),
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="Clips to show.")] = 24,
    name: Annotated[list[str] | None, typer.Option("--set", help="Only this set; may be given more than once.")] = None,
) -> None:
    """Write a page with frames, players, and the captions of every set side by side."""
    from pipelines.captions.review_page import write_sheet
    from pipelines.run.folder import RunFolder

    console.out.print(f"{write_sheet(RunFolder(folder), out, clips=number, names=name)}", markup=False)
