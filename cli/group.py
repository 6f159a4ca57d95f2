"""A group of commands: names that have changed keep working, and flags show no type in the help."""

from collections.abc import Mapping
from typing import Any

from typer.core import TyperGroup

from uniform.renamed import COMMANDS, OPTIONS, warn_renamed


class Group(TyperGroup):
    """A `TyperGroup` that also takes the command and option names of version 0.3.0 (`uniform.renamed`)."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or of the name that it had before; None for an unknown name."""
        command = super().get_command(ctx, cmd_name)
        new = COMMANDS.get(f"{ctx.info_name} {cmd_name}")
        if command is None and new is not None:
            warn_renamed(f"uniform {ctx.info_name} {cmd_name}", f"uniform {new}")
            command = super().get_command(ctx, new.split()[-1])
        if command is not None:
            _hide_flag_types([*command.params, command.get_help_option(ctx)])
        return command

    def get_params(self, ctx: Any) -> list[Any]:
        """The group's own options."""
        params = super().get_params(ctx)
        _hide_flag_types(params)
        return params

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command and hand it its arguments, old option names replaced by the present ones."""
        name, command, rest = super().resolve_command(ctx, args)
        path = " ".join(part for part in (ctx.info_name if ctx.parent else None, command and command.name) if part)
        return name, command, _with_current_options(rest, OPTIONS.get(path, {}))


def _hide_flag_types(params: list[Any]) -> None:
    """Show a flag without `<bool>`: it takes no value."""
    for param in params:
        if getattr(param, "is_flag", False) and param.metavar is None:
            param.metavar = ""


def _with_current_options(args: list[str], renamed: Mapping[str, str]) -> list[str]:
    found = []
    for arg in args:
        option, equals, value = arg.partition("=")
        if option in renamed:
            warn_renamed(option, renamed[option])
            arg = renamed[option] + equals + value
        found.append(arg)
    return found
