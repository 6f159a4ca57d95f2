"""`uniform captions`: show, compare, review, export and import the caption sets of a run."""

from pathlib import Path
from typing import Annotated

import typer

from cli import console
from cli.group import Group
from cli.options import RunOut
from cli.places import local_path

app = typer.Typer(cls=Group, help="Caption sets of a run: show, compare, review, edit.", no_args_is_help=True)

SetName = Annotated[str, typer.Option("--set", help="Name of a caption set.")]
SetNames = Annotated[list[str] | None, typer.Option("--set", help="Only this set; may be repeated.")]


@app.command()
def show(
    folder: RunOut,
    name: SetNames = None,
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="Clips to show.")] = 10,
    clip: Annotated[str | None, typer.Option(help="Only this clip, by its id.")] = None,
    dropped: Annotated[
        bool, typer.Option("--dropped", help="Only clips that the stage dropped, with the reason.")
    ] = False,
) -> None:
    """Show captions, one set after the other."""
    from pipelines.captions.sets import read_sets
    from pipelines.run.folder import RunFolder
    from uniform.errors import InputError

    shown = 0
    for one in read_sets(RunFolder(folder), name).values():
        codes = ", ".join(f"{count} {code}" for code, count in sorted(one.codes.items()))
        console.out.print(f"{one.name} (stage {one.stage}): {codes}", markup=False, style="bold")
        wanted = [c for c in one.captions.values() if clip in (None, c.clip_id) and (c.code != "ok" or not dropped)]
        for caption in wanted[:number]:
            again = f", attempt {caption.attempt}" if caption.attempt and caption.attempt > 1 else ""
            kept = f"{caption.origin}{again}: {caption.caption}"
            text = kept if caption.code == "ok" else f"{caption.code}: {caption.reason}"
            console.out.print(f"  {caption.clip_id}  {text}", markup=False)
            shown += 1
        if len(wanted) > number:
            console.out.print(f"  and {len(wanted) - number} more (-n {len(wanted)})", markup=False)
    if clip is not None and not shown:
        raise InputError(f"{folder}: no set has a clip '{clip}'; ids are those of manifest.parquet")


@app.command()
def diff(
    folder: RunOut,
    first: Annotated[str, typer.Argument(metavar="SET", help="A caption set.")],
    second: Annotated[str, typer.Argument(metavar="OTHER", help="Another caption set.")],
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="Clips to show.")] = 10,
) -> None:
    """Show the captions that differ between two sets, word by word."""
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
    folder: RunOut,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A .csv or .parquet file to write.", parser=local_path)],
    name: SetName,
) -> None:
    """Write a caption set as a table for people to edit."""
    from pipelines.captions.sets import export_set
    from pipelines.run.folder import RunFolder

    count = export_set(RunFolder(folder), name, path)
    console.out.print(f"{count} captions in {path}", markup=False)
    console.out.print(f"Next: uniform captions import {folder} {path} --set human --base {name}", markup=False)


@app.command("import")
def import_captions(
    folder: RunOut,
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="The edited table, .csv or .parquet.", parser=local_path)
    ],
    name: SetName,
    base: Annotated[
        str | None,
        typer.Option(
            help="The set that the table was exported from: captions that were not edited keep text and origin."
        ),
    ] = None,
) -> None:
    """Import an edited table as a new caption set; changed captions get the origin "human"."""
    from pipelines.captions.sets import import_set
    from pipelines.run.folder import RunFolder

    made = import_set(RunFolder(folder), path, name, base)
    console.out.print(f"{made.human} captions edited, {made.kept} unchanged, in {made.path}", markup=False)
    if made.missing:
        console.out.print(
            f"{made.missing} clips of the run have no caption in it: the stage would drop them as caption_missing."
            + ("" if base else " Give --base to keep the captions of another set."),
            markup=False,
        )
    block = f'[[stage]]\nuse = "caption"\nas = "caption-{name}"\nset = "{name}"\nsource = "file"\nfile = "{made.path}"'
    console.out.print(f"Add this stage to the recipe to use it:\n\n{block}", markup=False)


@app.command()
def review(
    folder: RunOut,
    out: Annotated[
        Path, typer.Option(help="Folder that receives captions.html and the clips.", parser=local_path)
    ] = Path("captions"),
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="Clips to show.")] = 24,
    name: SetNames = None,
) -> None:
    """Write an HTML page for review: frames, players, and the captions of every set side by side."""
    from pipelines.captions.review_page import write_review_page
    from pipelines.run.folder import RunFolder

    console.out.print(f"{write_review_page(RunFolder(folder), out, clips=number, names=name)}", markup=False)
