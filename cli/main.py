"""The `uniform` command: one group per wing of the house. No logic here, and nothing heavy is imported."""

import importlib
import importlib.util
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli import console
from uniform import __version__
from uniform.errors import UniformError

GROUPS = ("manifest", "pipeline", "shards", "codec", "weights", "captions", "world")
"""Modules of this package that hold a group of commands (`app`)."""
COMMANDS = ("train", "sample", "export", "evaluate", "demo", "doctor")
"""Modules of this package that hold one command: a function of the module's name."""


class _Group(TyperGroup):
    """Shows errors that the user can mend as text, and exits with code 1: ours, and those of paths."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UniformError as error:
            console.show_error(error)
            raise typer.Exit(1) from error
        except OSError as error:
            if error.filename is None or ctx.params.get("verbose"):
                raise
            told = f"{error.filename}: {error.strerror}. Check the path, or see where it comes from with --verbose."
            console.show_error(UniformError(told))
            raise typer.Exit(1) from error


app = typer.Typer(
    name="uniform",
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Prepare audio-video data sets as latent shards, train UniForm on them, sample audible video.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        console.out.print(f"uniform {__version__}")
        raise typer.Exit


@app.callback()
def root(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details too.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Prepare audio-video data sets as latent shards, train UniForm on them, sample audible video."""
    console.start_logging(verbose)


def _mount() -> None:
    for name in GROUPS:
        if importlib.util.find_spec(f"cli.{name}"):
            app.add_typer(importlib.import_module(f"cli.{name}").app, name=name)
    for name in COMMANDS:
        if importlib.util.find_spec(f"cli.{name}"):
            app.command(name)(getattr(importlib.import_module(f"cli.{name}"), name))


_mount()


def main() -> None:
    """Entry point of the installed command."""
    app()


if __name__ == "__main__":
    main()
