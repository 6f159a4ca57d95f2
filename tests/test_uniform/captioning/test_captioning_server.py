"""Captions from a server: what is asked, what is answered, and what happens where it is not."""

import base64
import contextlib
import io
import json
import random
import socket
import threading
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.caption_server import CaptionServer, Reply, caption_server, said
from uniform.captioning.base import Answer, Captioner, Decoding, Failure, Question, ServerError
from uniform.captioning.server import MOST_BYTES, Server, _answer
from uniform.captioning.settings import Settings
from uniform.captioning.wording import clean
from uniform.errors import ConfigError

FRAMES = np.stack([np.full((16, 24, 3), value, np.uint8) for value in (0, 128, 255)])
DECODING = Decoding(max_new_tokens=33)


def server(address: str, **changes: Any) -> Server:
    values = {"name": "test", "backend": "server", "model": "served/model", "address": address, "retries": 2}
    return Server(Settings(**{**values, **changes}), pause_s=0.0)


def ask(state: CaptionServer, number: int = 1, decoding: Decoding = DECODING, **changes: Any) -> list[Answer | Failure]:
    captioner = server(state.address, **changes)
    picture = captioner.prepare(FRAMES)
    return captioner.answer([Question(picture, "be brief", f"clip {n}") for n in range(number)], decoding)


def test_a_question_holds_prompt_frames_and_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTION_KEY", "secret")
    with caption_server(lambda question, number: said("A dog.", "length", 9)) as state:
        found = ask(state, key_variable="CAPTION_KEY")

    (asked,) = state.asked
    system, user = asked.pop("messages")
    pictures, text = user["content"][:-1], user["content"][-1]
    assert found == [Answer("A dog.", "length", 9)]
    assert asked == {"model": "served/model", "max_tokens": 33, "temperature": 0, "seed": 0}
    assert system == {"role": "system", "content": "be brief"}
    assert (text, state.paths, state.keys) == (
        {"type": "text", "text": "clip 0"},
        ["/v1/chat/completions"],
        ["Bearer secret"],
    )
    for picture, value in zip(pictures, (0, 128, 255), strict=True):
        head, content = picture["image_url"]["url"].split(",")
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
        assert head == "data:image/jpeg;base64"
        assert image.shape == (16, 24, 3)
        assert abs(int(image.mean()) - value) <= 1


def test_many_questions_come_back_in_order_and_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with caption_server(lambda question, number: said(question["messages"][-1]["content"][-1]["text"])) as state:
        found = ask(state, 9, Decoding(repetition_penalty=1.2))

    assert [one.text for one in found if isinstance(one, Answer)] == [f"clip {n}" for n in range(9)]
    assert state.keys == [None] * 9
    assert {question["repetition_penalty"] for question in state.asked} == {1.2}


def test_busy_answers_of_a_server_are_retried() -> None:
    replies: list[Reply] = [(503, b"busy", {}), (429, b"slow down", {}), said("A cat.")]
    with caption_server(lambda question, number: replies[number]) as state:
        assert ask(state) == [Answer("A cat.", "stop", 5)]


@pytest.mark.parametrize(
    ("reply", "reason", "times"),
    [
        ((500, b"boom  \n boom", {}), "HTTP 500: boom boom", 3),
        ((400, b"too long", {}), "HTTP 400: too long", 1),
        ((200, b"<html>", {}), "not a chat completion", 3),
        ((200, b'{"choices": []}', {}), "not a chat completion", 3),
        ((200, b'{"choices": [{"message": {"content": [1]}}]}', {}), "not a chat completion", 3),
        ((200, b" " * (MOST_BYTES + 1), {}), "more than 1,000,000 bytes", 3),
    ],
)
def test_a_question_without_an_answer_fails_alone_after_its_retries(reply: Reply, reason: str, times: int) -> None:
    with caption_server(lambda question, number: reply) as state:
        (found,) = ask(state)

    assert isinstance(found, Failure)
    assert reason in found.reason
    assert len(state.asked) == times


def test_a_model_that_returns_nothing_gives_an_empty_answer_for_the_gate() -> None:
    with caption_server(lambda question, number: said(None)) as state:
        assert ask(state) == [Answer("", "stop", 5)]


@pytest.mark.parametrize("reply", [(401, b"no key", {}), (404, b"no such model", {}), (302, b"", {"Location": "/v2"})])
def test_a_wrong_key_model_or_address_stops_the_run(reply: Reply) -> None:
    with caption_server(lambda question, number: reply) as state, pytest.raises(ServerError, match=f"HTTP {reply[0]}"):
        ask(state, 2)

    assert all(path == "/v1/chat/completions" for path in state.paths)


def test_a_server_that_cannot_be_reached_stops_with_what_to_do() -> None:
    with caption_server(lambda question, number: said("x")) as state:
        gone = state.address

    with pytest.raises(ServerError, match=r"no connection.*use a local captioner"):
        server(gone).answer([Question(["data:,"], "", "x")] * 2, DECODING)


@pytest.mark.parametrize("address", ["", "file:///etc/passwd", "localhost:8000/v1", "ftp://host/v1"])
def test_an_address_that_is_not_http_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="wanted a URL like http://host:8000/v1"):
        server(address)


def test_a_server_is_a_captioner_whose_provenance_holds_the_model_and_not_the_address() -> None:
    values = {"name": "test", "backend": "server", "model": "m"}
    one, other = (Settings(**values, address=f"http://h{n}/v1") for n in (1, 2))

    assert isinstance(one.open("auto"), Captioner)
    assert one.provenance() == other.provenance()
    assert one.changed(model="n").provenance() != one.provenance()
    assert one.changed(revision="2026-01").provenance() != one.provenance()


ODD_BODIES = [
    b'{"choices":' + b"[" * 400_000,
    b'{"choices": [{"message": {"content": "a"}}], "usage": {"completion_tokens": Infinity}}',
    b'{"choices": [{"message": {"content": "a"}}], "usage": {"completion_tokens": 1e999}}',
    b'{"choices": [{"message": {"content": "a"}}], "usage": {"completion_tokens": ' + b"9" * 5_000 + b"}}",
    b"\xff\xfe",
    b"",
]


@pytest.mark.parametrize("body", ODD_BODIES, ids=range(len(ODD_BODIES)))
def test_an_odd_answer_costs_its_question_and_nothing_else(body: bytes) -> None:
    with caption_server(lambda question, number: (200, body, {})) as state:
        (found,) = ask(state, retries=0)

    assert isinstance(found, Failure)
    assert "not a chat completion" in found.reason


@pytest.mark.parametrize("tokens", ['"many"', "-5", "true", "[]", "1e30", "0.5"])
def test_an_odd_count_of_tokens_does_not_cost_the_caption(tokens: str) -> None:
    body = f'{{"choices": [{{"message": {{"content": "A dog."}}}}], "usage": {{"completion_tokens": {tokens}}}}}'
    with caption_server(lambda question, number: (200, body.encode(), {})) as state:
        (found,) = ask(state, retries=0)

    assert found == Answer("A dog.", "stop", 0)


def test_half_an_emoji_and_controls_do_not_reach_a_caption() -> None:
    text = "A dog \\ud83d barks\\u001b]0;owned\\u0007 at\\u202e the\\u200b gate\\u0000."
    body = f'{{"choices": [{{"message": {{"content": "{text}"}}}}]}}'
    with caption_server(lambda question, number: (200, body.encode(), {})) as state:
        (found,) = ask(state, retries=0)

    assert isinstance(found, Answer)
    caption = clean(found.text)
    assert caption == "A dog \ufffd barks at the gate."
    caption.encode()


@pytest.mark.parametrize("where", ["head", "body"])
def test_a_dripping_answer_ends_at_the_time_limit(where: str) -> None:
    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 99\r\n\r\n" if where == "body" else b""))
            for _ in range(100):
                connection.sendall(b"x")
                time.sleep(0.1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: drip(listener.accept()[0]), daemon=True)
        thread.start()
        began = time.monotonic()
        captioner = server(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", timeout_s=0.5, retries=0)
        with pytest.raises(ServerError, match=r"the answer did not come within 0\.5 s"):
            captioner.answer([Question(captioner.prepare(FRAMES), "", "clip")], DECODING)

    assert time.monotonic() - began < 3


def _fuzzed_bodies(count: int) -> list[bytes]:
    """Chat completions with random damage: bytes, structure, types, numbers, texts."""
    chance = random.Random(7)
    odd: list[object] = [
        None,
        True,
        -1,
        1e308,
        "",
        "\ud800",
        "\x1b[31m",
        [],
        {},
        [[]],
        {"a": {"b": []}},
        10**30,
        "x" * 999,
    ]

    def value(depth: int) -> object:
        if depth > 4 or chance.random() < 0.5:
            return chance.choice(odd)
        if chance.random() < 0.5:
            return [value(depth + 1) for _ in range(chance.randrange(4))]
        return {chance.choice(["choices", "message", "content", "usage", "\udc00"]): value(depth + 1) for _ in range(3)}

    bodies = []
    for number in range(count):
        tree: dict[str, object] = {
            "choices": [{"message": {"content": value(0)}, "finish_reason": value(3)}],
            "usage": {"completion_tokens": value(1)},
        }
        for path in (("choices",), ("usage",)):
            if chance.random() < 0.3:
                tree[path[0]] = value(0)
        raw = bytearray(json.dumps(tree).encode())
        if number % 3 == 0:
            for _ in range(chance.randrange(1, 9)):
                raw[chance.randrange(len(raw))] = chance.randrange(256)
        if number % 7 == 0:
            raw = raw[: chance.randrange(len(raw))]
        bodies.append(bytes(raw))
    return bodies


def test_five_hundred_damaged_answers_are_captions_or_failures() -> None:
    captions = failures = 0
    for body in _fuzzed_bodies(500):
        try:
            found = _answer(body)
        except ValueError:
            failures += 1
            continue
        captions += 1
        clean(found.text).encode()
        assert clean(found.text).isprintable() or not clean(found.text)
    assert captions > 50
    assert failures > 50
