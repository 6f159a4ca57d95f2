"""A local caption server with the OpenAI chat API and scripted replies."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.loopback import running

Reply = tuple[int, bytes, dict[str, str]]
"""Status, body, headers."""


def said(text: str | None, finish: str = "stop", tokens: int = 5) -> Reply:
    """A reply with a caption."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    body = {"choices": [choice], "usage": {"completion_tokens": tokens}}
    return 200, json.dumps(body).encode(), {}


@dataclass
class CaptionServer:
    """The recorded questions, and the reply to each."""

    reply: Callable[[dict[str, Any], int], Reply]
    """From the question and the number of earlier questions."""
    address: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


@contextmanager
def caption_server(reply: Callable[[dict[str, Any], int], Reply]) -> Iterator[CaptionServer]:
    """Run a server that answers with `reply` while the context lasts."""
    state, lock = CaptionServer(reply), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(state.asked)
                state.asked.append(question)
                state.paths.append(self.path)
                state.keys.append(self.headers.get("Authorization"))
            status, body, headers = state.reply(question, number)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with running(server) as address:
        state.address = f"{address}/v1"
        yield state
