"""Problems of a listing, collected in one pass, so that a person fixes all lines at once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from uniform.errors import ManifestError

SHOWN = 20
"""Problems printed in full; the rest is a number."""
KEPT = 10_000
"""Problems kept in memory; all are counted. A listing of another form is wrong on every line."""
CELL_CHARACTERS = 60
"""A cell in a message is cut to this length."""


@dataclass(frozen=True)
class Problem:
    """One problem: where it is, what was found, what was expected, and the nearest fix."""

    place: str
    """file:line, or the file alone."""
    column: str | None
    found: str
    wanted: str
    fix: str

    def __str__(self) -> str:
        column = f"column '{self.column}': " if self.column else ""
        return f"{self.place}: {column}found {self.found}; wanted {self.wanted}. {self.fix}".rstrip()


class Problems:
    """Errors stop the build; warnings do not. Both are counted in full and kept up to a limit.

    Args:
        on_problem: what a bad line is: an "error", or left out with a warning ("drop").
    """

    def __init__(self, on_problem: str = "error") -> None:
        self.on_problem = on_problem
        self.dropped: Counter[str] = Counter()
        """Code -> lines, files and members that were left out: bad_line, and those of `unread.REASONS`."""
        self.errors: list[Problem] = []
        self.warnings: list[Problem] = []
        self.error_count = 0
        self.warning_count = 0

    def error(self, place: str, column: str | None, found: str, wanted: str, fix: str = "") -> None:
        """Note something that must be fixed."""
        self.error_count += 1
        if len(self.errors) < KEPT:
            self.errors.append(Problem(place, column, found, wanted, fix))

    def bad_line(self, place: str, column: str | None, found: str, wanted: str, fix: str = "") -> None:
        """Note a line that cannot be used: an error, or left out, as `on_problem` says."""
        if self.on_problem == "error":
            self.error(place, column, found, wanted, fix)
            return
        self.dropped["bad_line"] += 1
        self.warn(place, column, found, wanted, f"{fix} The line is left out.".strip())

    def warn(self, place: str, column: str | None, found: str, wanted: str, fix: str = "") -> None:
        """Note something that a person should know, but that may be intended."""
        self.warning_count += 1
        if len(self.warnings) < KEPT:
            self.warnings.append(Problem(place, column, found, wanted, fix))

    def raise_if_any(self, what: str) -> None:
        """Raises: ManifestError with the first problems and their number, where there is an error."""
        if self.error_count:
            raise ManifestError(f"{what}: {summary(self.errors, self.error_count, 'problem')}")


def summary(problems: Sequence[Problem], count: int, noun: str) -> str:
    """The first `SHOWN` of `problems`, one a line, after their number."""
    head = f"{count:,} {noun}{'' if count == 1 else 's'}"
    lines = [f"  {problem}" for problem in problems[:SHOWN]]
    if count > SHOWN:
        lines.append(f"  ... and {count - SHOWN:,} more")
    return "\n".join([head, *lines])


def quoted(value: object) -> str:
    """`value` as it stands in a listing, short enough for a message and free of control characters."""
    text = repr(value if isinstance(value, str) else str(value))
    return text if len(text) <= CELL_CHARACTERS else f"{text[: CELL_CHARACTERS - 4]}...{text[-1]} ({len(text):,} long)"
