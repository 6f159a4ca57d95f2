"""The table of answers: passing trouble is retryable, challenges count for the host, bytes count more than headers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.codes import CODES
from pipelines.fetching.answers import MESSAGES, PAGES, RANGES, REFUSALS, STATUSES
from pipelines.fetching.base import FetchError
from pipelines.fetching.messages import answer_of_status, code_of_message
from tests.support.hostile_server import body
from tests.support.paths import DATA
from tests.support.raw_server import Answerer, raw_server
from tests.test_pipelines.fetching.test_fetch_http import OPEN, ROW, fetcher

CASES = {
    case["name"]: case for case in map(json.loads, (DATA / "cases" / "http_answers.jsonl").read_text().splitlines())
}
SITE = [json.loads(line) for line in (DATA / "cases" / "site_messages.jsonl").read_text().splitlines()]
CONTENT = body("answer")


def answer(head: str, content: bytes = CONTENT) -> bytes:
    """An HTTP response: the lines of `head`, then `content`."""
    return "\r\n".join([*head.replace("{n}", str(len(content))).split("\n"), "", ""]).encode() + content


OK = answer("HTTP/1.1 200 OK\nContent-Type: video/mp4\nContent-Length: {n}\nConnection: close")
MISSING = answer("HTTP/1.1 404 Not Found\nContent-Length: 0", b"")


def scripted(name: str) -> Answerer:
    """The answers of a case, in order; the last repeats."""
    texts = [text.split(" (", 1)[0] if name == "location_utf8" else text for text in CASES[name]["answers"]]
    if name == "location_utf8":
        redirect = texts[0].encode()
        return lambda head, _: {b"/": redirect, b"/vid%C3%A9o/%C3%BC.mp4": OK}.get(head.split(b" ")[1], MISSING)
    if name == "cookie_then_file":
        again = answer("HTTP/1.1 302 Found\nLocation: /\nSet-Cookie: sid=1; Path=/\nContent-Length: 0", b"")
        return lambda head, _: OK if b"sid=1" in head else again
    length = str(len(CONTENT))
    parts = [text.replace("{n}", length).replace("BODY", "").encode() for text in texts]
    contents = [CONTENT if text.endswith("BODY") else b"" for text in texts]
    return lambda _, number: parts[min(number, len(parts) - 1)] + contents[min(number, len(parts) - 1)]


def code_or_ok(folder: Path, answerer: Answerer, **options: object) -> str:
    """The code for an address with these answers, or "ok" where the right bytes were kept."""
    with raw_server(answerer) as server:
        try:
            fetched = fetcher(folder, **{"attempts": 2, "retry_s": 0.0, **options}).fetch(
                replace(ROW, source_uri=server.url("/"))
            )
        except FetchError as error:
            return error.code
    assert fetched.path.read_bytes() == CONTENT
    return "ok"


@pytest.mark.parametrize("name", CASES)
def test_each_answer_of_the_reports_has_its_right_result(tmp_path: Path, name: str) -> None:
    wanted = "ok" if "kept" in CASES[name]["right"] else "sign_in"

    assert code_or_ok(tmp_path, scripted(name)) == wanted
    assert CODES["sign_in"].policy == "retryable"


@pytest.mark.parametrize("message", SITE, ids=[message["right"][:30] for message in SITE])
def test_passing_trouble_of_a_site_is_retryable(message: dict[str, str]) -> None:
    code = code_of_message(message["message"])

    assert CODES[code].policy == "retryable"
    assert code != "unknown"
    assert ("the host rests" in message["right"]) == (code in REFUSALS)


@pytest.mark.parametrize(
    "message",
    [
        "This request was detected as a bot. Use --cookies",
        "Unable to download API page: HTTP Error 404: Not Found (caused by <HTTPError 404: Not Found>)",
        "Unable to download JSON metadata: HTTP Error 412: Precondition Failed",
        "[youtube] x: We're processing this video. Check back later.",
        "[twitch] The channel is not currently live",
        "[youtube] x: Failed to extract any player response; please report this issue",
        "[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol (_ssl.c:1007)",
        "HTTP Error 425: Too Early",
        "HTTP Error 103: Early Hints",
    ],
)
def test_relatives_of_these_messages_are_retryable_and_known(message: str) -> None:
    code = code_of_message(message)
    assert (CODES[code].policy, code != "unknown") == ("retryable", True)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("This video is password protected, use the --video-password option", "members"),
        ("This video requires a YouTube Premium subscription is required", "members"),
        ("Unable to download webpage: HTTP Error 451: Unavailable For Legal Reasons", "region"),
        ("Unable to download webpage: HTTP Error 404: Not Found", "http_404"),
    ],
)
def test_the_words_of_a_site_decide(message: str, code: str) -> None:
    assert code_of_message(message) == code


def test_only_statuses_that_prove_it_are_permanent() -> None:
    statuses = [*range(100, 1000), 0, 1000, 65_535]
    permanent = {status for status in statuses if CODES[answer_of_status(status).code].policy == "permanent"}

    assert permanent == {404, 410}


def test_every_row_of_the_table_has_a_known_code_and_a_reason() -> None:
    rows = [
        *((row.code, row.reason) for row in STATUSES.values()),
        *((row.code, row.reason) for _, row in RANGES),
        *((code, reason) for code, _, reason in (*MESSAGES, *PAGES)),
    ]
    assert len(rows) > 70
    assert all(code in CODES and reason for code, reason in rows)
    assert all(row.code in REFUSALS or row.code == "http_5xx" for row in STATUSES.values() if row.refuses)


@pytest.mark.parametrize("status", [204, 205, 408, 409, 421, 423, 425, 500, 502, 520, 599])
def test_passing_statuses_are_asked_again_and_the_file_is_kept(tmp_path: Path, status: int) -> None:
    first = answer(f"HTTP/1.1 {status} Later\nContent-Length: 0\nConnection: close", b"")

    assert code_or_ok(tmp_path, lambda _, number: OK if number else first) == "ok"


@pytest.mark.parametrize("interim", ["100 Continue", "102 Processing", "103 Early Hints", "199 Odd"])
def test_interim_answers_are_skipped(tmp_path: Path, interim: str) -> None:
    before = 3 * answer(f"HTTP/1.1 {interim}\nLink: </a>", b"")

    assert code_or_ok(tmp_path, lambda *_: before + OK) == "ok"


@pytest.mark.parametrize(
    "head",
    [
        "HT",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nConte",
        "HTTP/1.1 404 Not",
        "HTTP/1.1 404 Not Found\r\nServer: x\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n",
    ],
)
def test_a_head_that_a_broken_connection_cut_is_no_answer(tmp_path: Path, head: str) -> None:
    assert code_or_ok(tmp_path, lambda *_: head.encode(), attempts=1) == "connection"


def test_interim_answers_without_end_are_given_up(tmp_path: Path) -> None:
    endless = 500 * answer("HTTP/1.1 102 Processing", b"")

    assert code_or_ok(tmp_path, lambda *_: endless, attempts=1) == "bad_response"


CHALLENGE_PAGE = b"<!DOCTYPE html><title>Just a moment...</title>"


@pytest.mark.parametrize(
    ("head", "content"),
    [
        ("HTTP/1.1 202 Accepted\nx-amzn-waf-action: challenge", b""),
        ("HTTP/1.1 405 Not Allowed\nx-amzn-waf-action: captcha", b"x"),
        ("HTTP/1.1 403 Forbidden\ncf-mitigated: challenge", b"x"),
        ("HTTP/1.1 403 Forbidden", CHALLENGE_PAGE),
        ("HTTP/1.1 503 Unavailable", CHALLENGE_PAGE),
        ("HTTP/1.1 200 OK", CHALLENGE_PAGE),
        ("HTTP/1.1 412 Precondition Failed", b""),
        ("HTTP/1.1 418 I'm a teapot", b""),
    ],
)
def test_a_challenge_counts_as_a_refusal_of_the_host(tmp_path: Path, head: str, content: bytes) -> None:
    refusing = answer(f"{head}\nContent-Length: {{n}}\nConnection: close", content)
    with raw_server(lambda *_: refusing) as server:
        one = fetcher(tmp_path, replace(OPEN, breaker_refusals=3), attempts=1)
        codes = []
        for number in range(4):
            with pytest.raises(FetchError) as caught:
                one.fetch(replace(ROW, source_uri=server.url(f"/{number}")))
            codes.append(caught.value.code)

    assert codes == ["sign_in"] * 3 + ["host_paused"]


@pytest.mark.parametrize(
    "head",
    [
        "HTTP/1.1 200 OK\nContent-Encoding: utf-8\nContent-Length: {n}",
        "HTTP/1.1 200 OK\nContent-Encoding: aws-chunked\nContent-Length: {n}",
        "HTTP/1.1 200 OK\nContent-Encoding: binary, none\nContent-Length: {n}",
        "HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: {n}",
        "HTTP/1.1 200 OK\nContent-Encoding:\nContent-Length: {n}",
        "HTTP/1.1 200 OK\nContent-Type: text/html\nContent-Length: {n}",
        "HTTP/1.1 203 Non-Authoritative Information\nContent-Length: {n}",
        "HTTP/1.1 206 Partial Content\nContent-Range: bytes 0-99999/100000\nContent-Length: {n}",
    ],
)
def test_right_bytes_under_wrong_headers_are_kept(tmp_path: Path, head: str) -> None:
    assert code_or_ok(tmp_path, lambda *_: answer(f"{head}\nConnection: close")) == "ok"


def test_a_length_beside_chunks_is_not_believed(tmp_path: Path) -> None:
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(CONTENT), CONTENT)
    chunked = answer("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nContent-Length: 5\nConnection: close", chunks)

    assert code_or_ok(tmp_path, lambda *_: chunked) == "ok"


@pytest.mark.parametrize(
    "content_range", ["bytes 10-99999/100000", "bytes 0-99/100000", "bytes 0-99999/*", "bytes */1", "x", ""]
)
def test_a_part_that_was_not_asked_for_is_no_file(tmp_path: Path, content_range: str) -> None:
    part = answer(f"HTTP/1.1 206 Partial Content\nContent-Range: {content_range}\nContent-Length: {{n}}")

    assert code_or_ok(tmp_path, lambda *_: part) == "bad_response"


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/vidéo/ü.mp4".encode(), "/vid%C3%A9o/%C3%BC.mp4"),
        ("/vidéo/ü.mp4".encode("latin-1"), "/vid%E9o/%FC.mp4"),
        (b"/a%20b c.mp4", "/a%20b%20c.mp4"),
        ("?q=ü".encode(), "/?q=%C3%BC"),
    ],
)
def test_a_location_keeps_its_bytes(tmp_path: Path, location: bytes, path: str) -> None:
    redirect = b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % location
    with raw_server(lambda head, _: redirect if head.startswith(b"GET / ") else OK) as server:
        fetched = fetcher(tmp_path).fetch(replace(ROW, source_uri=server.url("/")))
        assert server.paths() == ["/", path]

    assert fetched.path.read_bytes() == CONTENT


def test_cookies_of_one_source_do_not_go_to_the_next(tmp_path: Path) -> None:
    one = fetcher(tmp_path)
    with raw_server(scripted("cookie_then_file")) as server:
        for number in range(2):
            one.fetch(replace(ROW, source_uri=server.url(f"/?{number}")))
        assert [b"sid=1" in head for head in server.requests] == [False, True, False, True]


def test_a_reason_is_one_clean_bounded_line_wherever_it_is_made(tmp_path: Path) -> None:
    hostile = "\x1b[31mX\x1b]0;owned\x07\u202e http://me:hush@h/?token=hush " + "y" * 60_000
    refusing = answer(f"HTTP/1.1 404 {hostile}\nContent-Length: 0", b"")
    with raw_server(lambda *_: refusing) as server, pytest.raises(FetchError) as caught:
        fetcher(tmp_path).fetch(replace(ROW, source_uri=server.url("/")))
    for reason in (caught.value.reason, FetchError("unknown", hostile).reason):
        assert len(reason) <= 400
        assert reason.isprintable()
        assert "hush" not in reason
