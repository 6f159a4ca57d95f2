"""What the commands share: where text goes, how an error looks, how logging is switched on."""

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
"""Characters of a table's line where no terminal says how many it has: nobody wants a name folded in a pipe."""


def show_table(table: "Table") -> None:
    """Print a table on standard output, as wide as the terminal, or wide enough where there is none."""
    (out if out.is_terminal else Console(width=PIPE_WIDTH)).print(table)


def show_error(error: UniformError) -> None:
    """Print an error that the user can mend; its text already says where, found, wanted and what to do next."""
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
