"""Real messages, each from a public issue thread, and the codes that they must get."""

import json

import pytest

from pipelines.codes import CODES
from pipelines.fetching.messages import clean_reason, code_of_message, code_of_status
from tests.support.paths import DATA

LINES = (DATA / "fetch_messages.jsonl").read_text().splitlines()
MESSAGES = [(line["thread"], line["message"], line["code"]) for line in map(json.loads, LINES)]


@pytest.mark.parametrize(("thread", "message", "code"), MESSAGES, ids=[f"{n}-{m[0]}" for n, m in enumerate(MESSAGES)])
def test_a_message_from_the_wild_gets_its_code(thread: str, message: str, code: str) -> None:
    assert code_of_message(message) == code
    assert code in CODES


def test_enough_messages_and_most_codes_are_held() -> None:
    assert len(MESSAGES) >= 40
    assert len({code for _, _, code in MESSAGES}) >= 20


def test_what_no_pattern_knows_may_be_tried_again() -> None:
    assert code_of_message("the moon is in the wrong place") == "unknown"
    assert CODES["unknown"].policy == "retryable"


@pytest.mark.parametrize(
    ("status", "code"), [(400, "http_4xx"), (403, "http_403"), (410, "http_410"), (429, "http_429"), (503, "http_5xx")]
)
def test_a_status_gets_its_code(status: int, code: str) -> None:
    assert code_of_status(status) == code
    assert code in CODES


@pytest.mark.parametrize(
    "text",
    [
        "http://me:hush@proxy:80 refused",
        "socks5h://hush@proxy:1080 refused",
        "s3://hush:hush@bucket/a",
        "https://h/a?X-Amz-Signature=hush&X-Amz-Credential=hush",
        "https://h/a?access_token=hush",
        "https://rr1.h/videoplayback?expire=1&pot=hush&sig=hush",
        "https://h/a?v=1&api_key=hush'",
        "https://h/a?Key-Pair-Id=hush&Policy=hush",
    ],
)
def test_no_spelling_of_a_secret_stays_in_a_reason(text: str) -> None:
    assert "hush" not in clean_reason(text)
    assert "***" in clean_reason(text)


def test_secrets_and_colours_stay_out_of_the_ledger() -> None:
    text = clean_reason("\x1b[0;31mERROR:\x1b[0m http://me:secret@proxy:80 and https://h/x?token=abc&v=1 " + "x" * 999)

    assert "secret" not in text
    assert "abc" not in text
    assert "\x1b" not in text
    assert "http://***@proxy:80" in text
    assert len(text) <= 400
