"""A hub on this machine that takes uploads as huggingface_hub sends them: repositories, commits, large files by LFS."""

import base64
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.loopback import running

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secretsecretsecretsecretsecretsecr"
READER = "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"
"""A token that may not write."""


@dataclass
class UploadHub:
    """What the hub holds, and what it was asked."""

    private: dict[str, bool] = field(default_factory=dict)
    """Repositories by id."""
    commits: list[dict[str, bytes]] = field(default_factory=list)
    """The files of each commit."""
    requests: list[str] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files by sha256."""
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    hub: UploadHub

    def do_GET(self) -> None:
        hub_id = self.path.removeprefix("/api/models/")
        if hub_id in self.hub.private:
            self._json({"id": hub_id, "private": self.hub.private[hub_id]})
        else:
            self._json({"error": "Not found"}, status=404)

    def do_PUT(self) -> None:
        self.hub.objects[self.path.removeprefix("/objects/")] = self._body()
        self._json({})

    def do_POST(self) -> None:
        body, path = self._body(), self.path.split("?")[0]
        self.hub.requests.append(path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._json({"error": "You don't have the rights to do this"}, status=403)
        elif path == "/api/repos/create":
            wanted = json.loads(body)
            hub_id = f"{wanted['organization']}/{wanted['name']}"
            known = hub_id in self.hub.private
            self.hub.private.setdefault(hub_id, wanted["visibility"] == "private")
            self._json({"url": f"{self.hub.url}/{hub_id}"}, status=409 if known else 200)
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
            files = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
            self._json({"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            self._json({"transfer": "basic", "objects": [self._place(item) for item in json.loads(body)["objects"]]})
        else:
            hub_id = path.removeprefix("/api/models/").removesuffix("/commit/main")
            self._commit(hub_id, [json.loads(line) for line in body.splitlines()])

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _place(self, item: dict[str, Any]) -> dict[str, Any]:
        return {**item, "actions": {"upload": {"href": f"{self.hub.url}/objects/{item['oid']}"}}}

    def _commit(self, hub_id: str, lines: list[dict[str, Any]]) -> None:
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        self.hub.commits.append(files)
        self._json({"commitUrl": f"{self.hub.url}/{hub_id}/commit/{COMMIT}", "commitOid": COMMIT})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _json(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def taking_uploads() -> Iterator[UploadHub]:
    """A hub without repositories that knows one token that may write."""
    hub = UploadHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    with running(server) as hub.url:
        yield hub
