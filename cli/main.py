"""The `uniform` command: one module per group of commands. No logic here, and no heavy import."""

import importlib
from typing import Annotated, Any

import typer

from cli import console
from cli.group import Group
from uniform import __version__
from uniform.errors import PlaceError, UniformError

DATA, MODEL, MACHINE = "Build data", "Train, sample, evaluate", "This machine"
"""Titles of the panels of the help."""
GROUPS = {
    "manifest": DATA,
    "pipeline": DATA,
    "captions": DATA,
    "shards": DATA,
    "codec": MODEL,
    "evaluate": MODEL,
    "world": MODEL,
    "weights": MACHINE,
}
"""Modules of this package that hold a group of commands (`app`) -> panel."""
COMMANDS = {
    "train": MODEL,
    "sample": MODEL,
    "export": MODEL,
    "doctor": MACHINE,
    "demo": MACHINE,
}
"""Modules of this package that hold one command, a function of the module's name -> panel."""


class Root(Group):
    """The top group. It prints errors that the user can fix as text, without a traceback, and exits with code 1.

    An error may name another code: `exit_code`.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """The order of the help: that of the work."""
        return [
            name for panel in (DATA, MODEL, MACHINE) for name, own in {**GROUPS, **COMMANDS}.items() if own == panel
        ]

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UniformError as error:
            console.show_error(error)
            raise typer.Exit(2 if isinstance(error, PlaceError) else getattr(error, "exit_code", 1)) from error
        except OSError as error:
            if error.filename is None or ctx.params.get("verbose"):
                raise
            message = f"{error.filename}: {error.strerror}. Check the path; --verbose shows where the error arose."
            console.show_error(UniformError(message))
            raise typer.Exit(1) from error


app = typer.Typer(
    name="uniform",
    cls=Root,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Prepare audio-video datasets as latent shards, train UniForm on them, sample audible video.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        console.out.print(f"uniform {__version__}")
        raise typer.Exit


@app.callback()
def root(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Prepare audio-video datasets as latent shards, train UniForm on them, sample audible video."""
    console.start_logging(verbose)


for _name, _panel in GROUPS.items():
    app.add_typer(importlib.import_module(f"cli.{_name}").app, name=_name, rich_help_panel=_panel)
for _name, _panel in COMMANDS.items():
    app.command(_name, rich_help_panel=_panel)(getattr(importlib.import_module(f"cli.{_name}"), _name))


def main() -> None:
    """Entry point of the installed command."""
    app()


if __name__ == "__main__":
    main()
