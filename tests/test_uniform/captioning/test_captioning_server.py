"""Captions from a server: what is asked, what is answered, and what happens where it is not."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.caption_server import CaptionServer, Reply, caption_server, said
from uniform.captioning.base import Answer, Captioner, Decoding, Failure, Question, ServerError
from uniform.captioning.server import MOST_BYTES, Server
from uniform.captioning.settings import Settings
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
