"""Regular expressions of manifests, with limits: a manifest from outside cannot stop the process.

A match has a time limit, all matches of a listing have one together, and an expression whose counted repeats multiply
to a large program is refused.
"""

import re
import time
from collections.abc import Callable
from typing import Any

import regex

from pipelines.manifest.cells import CellError
from pipelines.manifest.diagnostics import quoted
from uniform.errors import ConfigError, ManifestError

EXPRESSION_CHARACTERS = 1_000
PROGRAM_STEPS = 20_000
"""Largest size of an expression with its counted repeats written out."""
TEXT_CHARACTERS = 4_096
"""Longest text that is matched. The longest path of Linux."""
MATCH_S = 1.0
LISTING_S = 120.0
"""Of all matches of one expression in one listing."""
_COUNT = re.compile(r"\{([0-9]*)(?:(,)([0-9]*))?\}")


def check_expression(expression: str) -> dict[str, int]:
    """The named groups of a regular expression. Raises ConfigError for one that is wrong or too large."""
    if len(expression) > EXPRESSION_CHARACTERS:
        raise ConfigError(f"a regular expression of {len(expression):,} characters; limit {EXPRESSION_CHARACTERS:,}")
    try:
        groups = dict(re.compile(expression).groupindex)  # `regex` writes repeats out, so its size is checked before
        steps = _steps(expression)
        if steps <= PROGRAM_STEPS:
            regex.compile(expression)
    except (re.error, regex.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"not a regular expression: {error}") from error
    if steps > PROGRAM_STEPS:
        raise ConfigError(f"a regular expression whose repeats make {steps:,} steps; limit {PROGRAM_STEPS:,}")
    return groups


class Pattern:
    """A regular expression of a manifest. Raises ConfigError as `check_expression`."""

    def __init__(self, expression: str) -> None:
        check_expression(expression)
        self.text = expression
        self._compiled = regex.compile(expression)
        self._used_s = 0.0

    def groups(self, text: str, column: str) -> dict[str, str] | None:
        """The named groups of a match of the whole text, or None.

        Raises: CellError for a longer text than is matched; ManifestError where matching takes too long.
        """
        if len(text) > TEXT_CHARACTERS:
            raise CellError(column, quoted(text), f"at most {TEXT_CHARACTERS:,} characters", "Shorten the cell.")
        match = self._timed(self._compiled.fullmatch, text)
        return None if match is None else {name: value or "" for name, value in match.groupdict().items()}

    def begins(self, text: str) -> bool:
        """Whether the text begins with a match. Raises ManifestError where matching takes too long."""
        return self._timed(self._compiled.match, text) is not None

    def _timed(self, match: Callable[..., Any], text: str) -> Any:
        start_s = time.perf_counter()
        try:
            found = match(text, timeout=MATCH_S)
        except (TimeoutError, MemoryError) as error:
            raise self._too_slow(f"takes more than {MATCH_S:g} s for {quoted(text)}") from error
        self._used_s += time.perf_counter() - start_s
        if self._used_s > LISTING_S:
            raise self._too_slow(f"takes more than {LISTING_S:g} s for the cells of one listing")
        return found

    def _too_slow(self, found: str) -> ManifestError:
        advice = "Write it without nested repeats such as (a+)+, and with [^/]* in place of .* where that is meant."
        return ManifestError(f"the regular expression {quoted(self.text)} {found}. {advice}")


def _steps(expression: str) -> int:
    """Size of the expression with counted repeats written out; an upper bound, without regard to alternatives."""
    totals, last, position = [0], 0, 0
    while position < len(expression):
        character = expression[position]
        count = _COUNT.match(expression, position)
        if character == "\\":
            last, position = 1, position + 2
        elif character == "[":
            last, position = 1, _class_end(expression, position)
        elif character == "(":
            totals.append(0)
            last, position = 0, position + 1
            continue
        elif character == ")" and len(totals) > 1:
            last, position = totals.pop() + 1, position + 1
        elif count and (count[1] or count[3] or count[2]):
            times = int(count[3] or count[1] or 1)
            totals[-1] += last * max(times - 1, 0)
            last, position = last * max(times, 1), count.end()
            continue
        else:
            last, position = 1, position + 1
        totals[-1] += last
    return sum(totals)


def _class_end(expression: str, begin: int) -> int:
    """Position after the character class that begins at `begin`."""
    position = begin + 1
    position += expression[position : position + 1] == "^"
    position += expression[position : position + 1] == "]"
    while position < len(expression) and expression[position] != "]":
        position += 2 if expression[position] == "\\" else 1
    return position + 1
