"""Captions from a server with the OpenAI chat API (vLLM, SGLang): frames as JPEG images, greedy decoding.

The server does its own batching; here a batch is the number of concurrent requests. A question without an answer drops
its clip, and a retry can ask again; a server that cannot be reached stops the run.
"""

import base64
import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from uniform.captioning.base import Answer, Decoding, Failure, Frames, Question, ServerError
from uniform.captioning.settings import Settings
from uniform.errors import ConfigError

CODE_VERSION = 1
MOST_BYTES = 1_000_000
"""Limit of one response."""
JPEG_QUALITY = 92
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
        self._opener = urllib.request.build_opener(_NoRedirect)

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
        reason = ""
        for attempt in range(self._settings.retries + 1):
            if attempt:
                time.sleep(self._pause_s * 2 ** (attempt - 1))
            try:
                return _answer(self._post(body))
            except urllib.error.HTTPError as error:
                with error:
                    reason = f"HTTP {error.code}: {_error_text(error.read(MOST_BYTES))}"
                if error.code in _PERMANENT_STATUSES or 300 <= error.code < 400:
                    raise ServerError(f"{self._url}: {reason}. Check address, model and key.") from error
                if error.code < 500 and error.code not in _RETRYABLE_STATUSES:
                    return Failure(reason)
            except (OSError, HTTPException) as error:
                reason = f"no connection, or it was lost ({getattr(error, 'reason', None) or error})"
            except ValueError as error:
                reason = f"not a chat completion: {error}"
        return Failure(reason)

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self._settings.key_variable)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._url, body, headers)  # noqa: S310 - the scheme was checked
        with self._opener.open(request, timeout=self._settings.timeout_s) as response:
            content: bytes = response.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES:,} bytes")
        return content


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: the key must not be sent to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _answer(content: bytes) -> Answer:
    try:
        response = json.loads(content)
        choice = response["choices"][0]
        text = choice["message"]["content"] or ""
        tokens = int((response.get("usage") or {}).get("completion_tokens") or 0)
        if not isinstance(text, str):
            raise TypeError(f"its content is {type(text).__name__}")
    except (KeyError, IndexError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"{error!r} in {content[:200]!r}") from error
    return Answer(text, "length" if choice.get("finish_reason") == "length" else "stop", tokens)


def _error_text(content: bytes) -> str:
    return " ".join(content[:300].decode(errors="replace").split()) or "no error text"


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
