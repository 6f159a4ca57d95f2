"""Output of the commands: standard output and error, tables, errors, logging."""

import logging
import sys
from typing import TYPE_CHECKING

from rich.console import Console

from uniform.errors import UniformError

if TYPE_CHECKING:
    from rich.table import Table

out = Console(soft_wrap=True, highlight=False)
"""Results: standard output."""
err = Console(stderr=True, soft_wrap=True, highlight=False)
"""Errors and progress: standard error, so that results can be piped."""


PIPE_WIDTH = 200
"""Characters of a table's line where there is no terminal, so that names are not folded in a pipe."""


def show_table(table: "Table") -> None:
    """Print a table on standard output, as wide as the terminal, or `PIPE_WIDTH` without one."""
    (out if out.is_terminal else Console(width=PIPE_WIDTH)).print(table)


def show_error(error: UniformError) -> None:
    """Print an error that the user can fix; its text holds where, found, wanted and what to do next."""
    err.print("error:", style="bold red", end=" ")
    err.print(str(error), markup=False)


def start_logging(verbose: bool) -> None:
    """Plain log lines on standard error: time, level, message."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )
    for talkative in ("matplotlib", "PIL", "urllib3", "httpx", "filelock", "fsspec"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
