"""An S3 server on loopback (moto's), and a proxy before it that fails as real servers do."""

import http.client
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from tests.support.loopback import running

BUCKET = "bucket"


@dataclass
class Fault:
    """What the proxy does with requests."""

    kind: str
    """status, reset, drip, etag or lost_answer."""
    status: int = 500
    code: str = "InternalError"
    times: int = 1_000_000
    """Requests that fail; later ones pass."""
    methods: tuple[str, ...] = ("PUT",)
    after: int = 0
    """Requests of these methods that pass before."""


@dataclass
class Store:
    """A loopback store as a test sees it."""

    address: str
    """Of the proxy."""
    behind: str
    """Of the S3 server."""
    faults: list[Fault] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    """Requests by method."""

    def objects(self) -> dict[str, bytes]:
        """Key -> bytes of every object, read without the proxy and without any driver."""
        client = _client(self.behind)
        keys = [one["Key"] for one in client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]
        return {key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}

    def parts_left(self) -> int:
        """Uploads in parts that were begun and neither ended nor taken back."""
        return len(_client(self.behind).list_multipart_uploads(Bucket=BUCKET).get("Uploads", []))

    def fault_for(self, method: str) -> Fault | None:
        """The fault of the next request, if any."""
        for fault in self.faults:
            if method in fault.methods:
                if fault.after > 0:
                    fault.after -= 1
                elif fault.times > 0:
                    fault.times -= 1
                    return fault
        return None


def _client(address: str):  # type: ignore[no-untyped-def]
    import boto3

    return boto3.client("s3", endpoint_url=address)


def _handler(store: Store) -> type[BaseHTTPRequestHandler]:
    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _pass(self) -> None:
            store.seen[self.command] += 1
            fault = store.fault_for(self.command)
            length = int(self.headers.get("Content-Length") or 0)
            if fault is not None and fault.kind == "reset":
                self.rfile.read(length // 2)
                self._reset()
                return
            body = self._body(length)
            if fault is not None and fault.kind == "status":
                self._refuse(fault)
                return
            if fault is not None and fault.kind == "drip":
                self._drip()
                return
            self._forward(body, fault)

        def _body(self, length: int) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(length)
            content = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return content

        def _forward(self, body: bytes, fault: Fault | None) -> None:
            connection = http.client.HTTPConnection(urlsplit(store.behind).netloc, timeout=30)
            headers = {key: value for key, value in self.headers.items() if key.lower() != "transfer-encoding"}
            headers["Content-Length"] = str(len(body))
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            if fault is not None and fault.kind == "lost_answer":
                self._reset()
                return
            self.send_response(answer.status)
            for key, value in answer.getheaders():
                if key.lower() == "etag" and fault is not None and fault.kind == "etag":
                    value = '"00000000000000000000000000000000"'
                if key.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(key, value)
            size = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", size or "0")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _refuse(self, fault: Fault) -> None:
            text = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>no</Message></Error>".encode()
            self.send_response(fault.status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        def _drip(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            try:
                for _ in range(200):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.05)
            except OSError:
                self.close_connection = True

        def _reset(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            self.rfile.close()

        def handle(self) -> None:
            try:
                super().handle()
            except (OSError, ValueError):
                self.close_connection = True

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

    return Proxy


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        pass


@contextmanager
def object_store() -> Iterator[Store]:
    """A running store with one empty bucket. See `lead_drivers_to`."""
    moto_server = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        store = Store("", "http://{}:{}".format(*server.get_host_and_port()))
        with running(_Server(("127.0.0.1", 0), _handler(store))) as address:
            store.address = address
            yield store
    finally:
        server.stop()


def lead_drivers_to(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty the store, and set the environment so that drivers ask it."""
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": store.address,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    store.faults.clear()
    _client(store.behind).create_bucket(Bucket=BUCKET)
    for upload in _client(store.behind).list_multipart_uploads(Bucket=BUCKET).get("Uploads", []):
        _client(store.behind).abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
    for key in store.objects():
        _client(store.behind).delete_object(Bucket=BUCKET, Key=key)
    store.seen.clear()
    s3fs.S3FileSystem.clear_instance_cache()
