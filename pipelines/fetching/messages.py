"""Codes for messages, statuses and pages, by the table of answers; and reasons without secrets."""

import re
from collections.abc import Iterable

from pipelines.fetching.answers import (
    CHALLENGE_HEADERS,
    CHALLENGE_STATUSES,
    MESSAGES,
    ODD_STATUS,
    PAGES,
    RANGES,
    STATUSES,
    Answer,
)
from uniform.clean_text import clean_line

_MESSAGES = tuple((code, re.compile(pattern, re.IGNORECASE)) for code, pattern, _ in MESSAGES)
_PAGES = tuple((code, re.compile(pattern.encode(), re.IGNORECASE)) for code, pattern, _ in PAGES)

LONGEST_REASON = 400
"""Characters of a reason in the ledger."""
LONGEST_MESSAGE = 20_000
"""Characters of a message that are searched for patterns and secrets."""
_SECRETS = re.compile(
    r"(?i)(\b[a-z][a-z0-9+.-]*://)[^/\s@]+@|"  # user and password of any address
    r"([?&][^=&\s]*(?:token|sig|signature|key|auth|password|credential|policy|session|pot)[^=&\s]*=)[^&\s'\"]+"
)


def code_of_message(message: str) -> str:
    """The code for the text of an error; `unknown`, which is retryable, where no pattern fits."""
    message = message[:LONGEST_MESSAGE]
    for code, pattern in _MESSAGES:
        if pattern.search(message):
            return code
    return "unknown"


def code_of_status(status: int) -> str:
    """The code for an HTTP status that is not a success."""
    return answer_of_status(status).code


def answer_of_status(status: int) -> Answer:
    """The row of the table for an HTTP status that is not a success."""
    if status in STATUSES:
        return STATUSES[status]
    return next((answer for statuses, answer in RANGES if status in statuses), ODD_STATUS)


def code_of_page(page: bytes) -> str | None:
    """The code for a page in place of media; None for a page without a sign of a robot check or an outage."""
    return next((code for code, pattern in _PAGES if pattern.search(page)), None)


def is_challenge(status: int, headers: Iterable[str], page: bytes) -> bool:
    """Whether an answer is a robot check, by the names of its headers or, for some statuses, by its page."""
    named = any(header.lower() in CHALLENGE_HEADERS for header in headers)
    return named or (status in CHALLENGE_STATUSES and code_of_page(page) == "sign_in")


def clean_reason(message: str) -> str:
    """A message for the ledger: one bounded line without terminal escapes, passwords and signed query values."""
    text = clean_line(message[:LONGEST_MESSAGE])
    text = _SECRETS.sub(lambda match: f"{match[1] or match[2]}***{'@' if match[1] else ''}", text)
    return clean_line(text, LONGEST_REASON)
