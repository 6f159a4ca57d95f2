"""Captions from a server with the OpenAI chat API (vLLM, SGLang): frames as JPEG images, greedy decoding.

The server does its own batching; here a batch is the number of concurrent requests. A question without an answer drops
its clip, and a retry can ask again; a server that cannot be reached stops the run.
"""

import base64
import io
import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from uniform.captioning.base import Answer, Decoding, Failure, Finish, Frames, Question, ServerError
from uniform.captioning.settings import Settings
from uniform.clean_text import clean_line
from uniform.deadline import deadline
from uniform.errors import ConfigError
from uniform.retry import retrying
from uniform.untrusted_json import read_untrusted_json

CODE_VERSION = 1
MOST_BYTES = 1_000_000
"""Limit of one response."""
JPEG_QUALITY = 92
HTTP_OK = 200
MOST_TOKENS = 1_000_000
LONGEST_REASON = 300
LONGEST_WAIT_S = 60.0
"""Limit of the wait before a retry."""
_PERMANENT_STATUSES = (401, 403, 404, 405)
"""HTTP statuses that every question would get: wrong address, model or key."""
_RETRYABLE_STATUSES = (408, 409, 425, 429)
"""HTTP statuses that are retried, with those of 500 and more."""


class Server:
    """A captioner that sends its questions to a server.

    Args:
        settings: with address, model and limits.
        pause_s: before the first retry; doubles with each.
    """

    def __init__(self, settings: Settings, pause_s: float = 1.0) -> None:
        address = urlsplit(settings.address)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ConfigError(
                f"captioner '{settings.name}': address is '{settings.address}'; wanted a URL like http://host:8000/v1"
            )
        self._settings, self._pause_s = settings, pause_s
        self._url = f"{settings.address.rstrip('/')}/chat/completions"

    def prepare(self, frames: Frames) -> list[str]:
        """The frames as JPEG data: URLs."""
        return [_data_url(frame) for frame in frames]

    def prompt_tokens(self, system: str, user: str) -> int:
        """Characters of the prompt: the tokenizer is on the server."""
        return len(system) + len(user)

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> list[Answer | Failure]:
        """One answer or failure per question. Raises ServerError where the server refuses or cannot be reached."""
        with ThreadPoolExecutor(max_workers=max(1, len(questions)), thread_name_prefix="caption") as pool:
            found = list(pool.map(lambda question: self._ask(self._body(question, decoding)), questions))
        if found and all(isinstance(one, Failure) and one.reason.startswith("no connection") for one in found):
            raise ServerError(
                f"{self._url}: {found[0].reason if isinstance(found[0], Failure) else ''}. Start the server, give "
                f'another address, or use a local captioner, for instance captioner = "smolvlm2".'
            )
        return found

    def _body(self, question: Question, decoding: Decoding) -> bytes:
        images = [{"type": "image_url", "image_url": {"url": url}} for url in question.frames]
        user = {"role": "user", "content": [*images, {"type": "text", "text": question.user}]}
        system = [{"role": "system", "content": question.system}] if question.system else []
        request: dict[str, Any] = {
            "model": self._settings.model,
            "messages": [*system, user],
            "max_tokens": decoding.max_new_tokens,
            "temperature": 0,
            "seed": 0,
        }
        if decoding.repetition_penalty != 1:  # vLLM and SGLang accept it; others refuse unknown keys
            request["repetition_penalty"] = decoding.repetition_penalty
        return json.dumps(request).encode()

    def _ask(self, body: bytes) -> Answer | Failure:
        repeat = retrying(
            attempts=self._settings.retries + 1,
            first_wait_s=self._pause_s,
            longest_wait_s=LONGEST_WAIT_S,
            is_retryable=lambda error: isinstance(error, _RetryableError),
        )
        try:
            return repeat(self._attempt, body)
        except _RetryableError as error:
            return Failure(str(error))

    def _attempt(self, body: bytes) -> Answer | Failure:
        """Send the question once. Raises _RetryableError, or ServerError where every question would fail alike."""
        try:
            status, content = self._post(body)
        except (OSError, HTTPException) as error:
            reason = clean_line(str(getattr(error, "reason", None) or error), LONGEST_REASON)
            raise _RetryableError(f"no connection, or it was lost ({reason})") from error
        except ValueError as error:
            raise _RetryableError(f"not a chat completion: {clean_line(str(error), LONGEST_REASON)}") from error
        if status == HTTP_OK:
            try:
                return _answer(content)
            except ValueError as error:
                raise _RetryableError(f"not a chat completion: {clean_line(str(error), LONGEST_REASON)}") from error
        reason = f"HTTP {status}: {_error_text(content)}"
        if status in _PERMANENT_STATUSES or 300 <= status < 400:
            raise ServerError(f"{self._url}: {reason}. Check address, model and key.")
        if 400 <= status < 500 and status not in _RETRYABLE_STATUSES:
            return Failure(reason)
        raise _RetryableError(reason)

    def _post(self, body: bytes) -> tuple[int, bytes]:
        """(status, content) of the response, which must come as a whole within the time limit of a request."""
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self._settings.key_variable)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._url, body, headers)  # noqa: S310 - the scheme was checked
        sockets: list[socket.socket] = []
        opener = urllib.request.build_opener(_NoRedirect, _Plain(sockets), _Secure(sockets))
        limit_s = self._settings.timeout_s
        with deadline(limit_s, "the answer", lambda: sockets[-1] if sockets else None):
            try:
                response = opener.open(request, timeout=limit_s)
            except urllib.error.HTTPError as error:
                response = error
            with response:
                content: bytes = response.read(MOST_BYTES + 1)
                if len(content) > MOST_BYTES:
                    raise ValueError(f"more than {MOST_BYTES:,} bytes")
                return response.status, content


class _RetryableError(Exception):
    """A question without an answer, which another attempt may get."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: the key must not be sent to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class _Plain(urllib.request.HTTPHandler):
    """Opens connections whose sockets it adds to a list, so that a deadline can shut them down."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        super().__init__()
        self._sockets = sockets

    def http_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(lambda host, **options: _connection(HTTPConnection, host, options, self._sockets), request)


class _Secure(urllib.request.HTTPSHandler):
    """As `_Plain`, with TLS."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        super().__init__()
        self._sockets = sockets

    def https_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(lambda host, **options: _connection(HTTPSConnection, host, options, self._sockets), request)


def _connection(
    kind: type[HTTPConnection], host: str, options: dict[str, Any], sockets: list[socket.socket]
) -> HTTPConnection:
    """A connection that adds its socket to `sockets` when it connects."""
    connection = kind(host, **options)
    connect = connection.connect

    def connect_and_add() -> None:
        connect()
        sockets.append(connection.sock)

    connection.connect = connect_and_add  # type: ignore[method-assign]
    return connection


def _answer(content: bytes) -> Answer:
    """The caption in a response. Raises ValueError where it is not a chat completion."""
    response = read_untrusted_json(content, max_bytes=MOST_BYTES)
    try:
        choice = response["choices"][0]
        text = choice["message"]["content"] or ""
        tokens = (response.get("usage") or {}).get("completion_tokens") or 0
        finish: Finish = "length" if choice.get("finish_reason") == "length" else "stop"
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"{error!r} in {content[:200]!r}") from error
    if not isinstance(text, str):
        raise ValueError(f"its content is {type(text).__name__} in {content[:200]!r}")
    counted = isinstance(tokens, int | float) and not isinstance(tokens, bool) and 0 <= tokens <= MOST_TOKENS
    return Answer(text, finish, int(tokens) if counted else 0)


def _error_text(content: bytes) -> str:
    return clean_line(content[:300].decode(errors="replace")) or "no error text"


def _data_url(frame: Frames) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def provenance(settings: Settings) -> dict[str, Any]:
    """Name of the served model, and the revision that the user states."""
    return {
        "code_version": CODE_VERSION,
        "served": settings.model,
        "revision": settings.revision,
        "jpeg_quality": JPEG_QUALITY,
    }


def open_captioner(settings: Settings, device: str) -> Server:
    """A captioner for the server; nothing is sent yet. `device` is not used."""
    return Server(settings)
