"""Published weights of the metrics: fetched over https or from the hub, recorded, verified."""

import hashlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.support.evaluation_standin import write_checkpoint
from tests.support.hub_cache import put_in_cache, use_cache
from tests.support.loopback import running
from tests.support.paths import DATA
from uniform.errors import WeightsError
from uniform.evaluation.extractors import catalogue
from uniform.evaluation.extractors.catalogue import (
    PublishedFile,
    PublishedWeights,
    evaluation_weights,
    extractor_entry,
    extractors,
    weights_of,
    weights_sha256,
)
from uniform.evaluation.extractors.fetch import fetch, verify
from uniform.evaluation.extractors.fetch_record import RECORD_NAME, recorded_files

CONTENT = bytes(range(256)) * 400
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class _Site:
    url: str = ""
    content: bytes = CONTENT
    stop_after: int | None = None
    redirect_to: str | None = None
    ranges_honoured: bool = True
    ranges: list[str | None] = field(default_factory=list)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Site]:
    """A server that speaks TLS on loopback, trusted by this process."""
    state = _Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.ranges.append(self.headers.get("Range"))
            if state.redirect_to is not None:
                self.send_response(302)
                self.send_header("Location", state.redirect_to)
                self.end_headers()
                return
            wanted = self.headers.get("Range") if state.ranges_honoured else None
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            if wanted and start >= len(state.content):
                self.send_error(416)
                return
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(state.content) - start))
            self.end_headers()
            self.wfile.write(state.content[start:][: state.stop_after])

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(DATA / "loopback.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(DATA / "loopback.pem"))
    monkeypatch.setenv("no_proxy", "localhost")
    with running(server):
        state.url = f"https://localhost:{server.server_port}"
        yield state


def _weights(site: _Site, **stated: object) -> PublishedWeights:
    settings = {"name": "w.pth", "bytes": len(CONTENT), "url": f"{site.url}/w.pth", "sha256": SHA256, **stated}
    file = PublishedFile(**settings)  # type: ignore[arg-type]
    return PublishedWeights(name="w", licence="MIT", publisher="nobody", how="ask nobody", files=(file,))


def test_a_file_is_fetched_once_and_its_digest_recorded(site: _Site, tmp_path: Path) -> None:
    weights = _weights(site)
    assert not recorded_files(weights, tmp_path)

    (record,) = fetch(weights, tmp_path)
    again = fetch(weights, tmp_path)

    assert (tmp_path / "w" / "w.pth").read_bytes() == CONTENT
    assert (record.sha256, record.known, again) == (SHA256, True, (record,))
    assert site.ranges == [None]
    assert recorded_files(weights, tmp_path)
    assert [verdict.problem for verdict in verify(weights, tmp_path)] == [None]


@pytest.mark.parametrize("ranges_honoured", [True, False])
def test_a_download_that_stopped_goes_on(site: _Site, tmp_path: Path, ranges_honoured: bool) -> None:
    site.stop_after, site.ranges_honoured = 40_000, ranges_honoured
    with pytest.raises(WeightsError, match="Run it again: it goes on where it stopped"):
        fetch(_weights(site), tmp_path)
    assert not (tmp_path / "w" / "w.pth").exists()
    site.stop_after = None

    fetch(_weights(site), tmp_path)

    assert (tmp_path / "w" / "w.pth").read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=40000-"]


def test_a_partial_download_longer_than_the_file_starts_anew(site: _Site, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "w.pth.part").write_bytes(CONTENT + b"more")
    with pytest.raises(WeightsError, match="HTTP 416"):
        fetch(_weights(site), tmp_path)

    fetch(_weights(site), tmp_path)

    assert (tmp_path / "w" / "w.pth").read_bytes() == CONTENT


def test_another_file_under_the_address_is_refused(site: _Site, tmp_path: Path) -> None:
    site.content = CONTENT[::-1]

    with pytest.raises(WeightsError, match="is not the published file's"):
        fetch(_weights(site), tmp_path)

    assert not (tmp_path / "w" / RECORD_NAME).exists()


def test_an_endless_file_and_a_way_out_of_https_are_refused(site: _Site, tmp_path: Path) -> None:
    site.content = CONTENT * 30
    with pytest.raises(WeightsError, match="which is not that file"):
        fetch(_weights(site), tmp_path)
    site.redirect_to = site.url.replace("https", "http")
    with pytest.raises(WeightsError, match="no https address"):
        fetch(_weights(site), tmp_path / "redirected")
    with pytest.raises(WeightsError, match="no https address"):
        fetch(_weights(site, url="file:///etc/passwd"), tmp_path / "local")
    with pytest.raises(WeightsError, match="By hand: ask nobody"):
        fetch(_weights(site, url=None), tmp_path / "nowhere")


def _without_digest(name: str) -> PublishedWeights:
    """An entry of the catalogue that takes stand-in weights for the published ones."""
    weights = evaluation_weights()[name]
    return replace(weights, files=tuple(replace(file, sha256=None) for file in weights.files))


def test_a_changed_file_and_one_that_its_network_refuses_are_found(tmp_path: Path) -> None:
    weights = _without_digest("i3d_400")
    write_checkpoint("i3d_tats", tmp_path)
    path = tmp_path / "i3d_pretrained_400.pt"

    fetch(weights, tmp_path)
    whole = [verdict.problem for verdict in verify(weights, tmp_path)]
    path.write_bytes(path.read_bytes() + b"\0")
    changed = [verdict.problem for verdict in verify(weights, tmp_path)]
    (tmp_path / "i3d_400" / RECORD_NAME).unlink()
    path.write_bytes(b"something else, and long enough")
    other = [verdict.problem for verdict in verify(weights, tmp_path)]

    assert whole == [None]
    assert "recorded with sha256" in str(changed[0])
    assert "neither safetensors nor" in str(other[0])


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"w.pth": 3}', '{"w.pth": {"sha256": 3}}', " " * 2_000_000])
def test_a_damaged_record_is_an_error_with_advice(site: _Site, tmp_path: Path, text: str) -> None:
    fetch(_weights(site), tmp_path)
    (tmp_path / "w" / RECORD_NAME).write_text(text)

    with pytest.raises(WeightsError, match="Delete it and fetch again"):
        recorded_files(_weights(site), tmp_path)


def test_a_file_of_the_hub_is_copied_out_of_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_cache(monkeypatch, tmp_path / "hub")
    (tmp_path / "repository" / "inner").mkdir(parents=True)
    (tmp_path / "repository" / "inner" / "w.pth").write_bytes(CONTENT)
    put_in_cache(tmp_path / "hub", "owner/name", tmp_path / "repository")
    file = PublishedFile(name="mine.pth", bytes=1, hub_id="owner/name", hub_path="inner/w.pth")
    weights = PublishedWeights(name="w", licence="MIT", publisher="nobody", how="ask nobody", files=(file,))

    (record,) = fetch(weights, tmp_path / "out")

    assert (tmp_path / "out" / "w" / "mine.pth").read_bytes() == CONTENT
    assert (record.sha256, record.known) == (SHA256, False)
    with pytest.raises(WeightsError, match="By hand: ask nobody"):
        fetch(replace(weights, files=(replace(file, hub_path="other"),)), tmp_path / "none")


def test_the_digest_of_weights_needs_no_network_to_be_opened(tmp_path: Path) -> None:
    (tmp_path / "vggish").mkdir()
    (tmp_path / "vggish" / "vggish-10086976.pth").write_bytes(CONTENT)

    assert weights_sha256("vggish", tmp_path) == {"vggish-10086976.pth": SHA256}


def test_the_commands_know_the_weights_of_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    changed = {**evaluation_weights(), "i3d_400": _without_digest("i3d_400")}
    monkeypatch.setattr(catalogue, "evaluation_weights", lambda: changed)
    folder = tmp_path / "uniform" / "evaluation"
    folder.mkdir(parents=True)
    write_checkpoint("i3d_tats", folder)

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["weights", *arguments], env={"COLUMNS": "300"})
        return result.exit_code, result.output

    before = run("list")[1]
    fetched, verified, after = run("fetch", "i3d_400"), run("verify", "i3d_400"), run("list")[1]

    assert all(name in before for name in evaluation_weights())
    assert (fetched[0], verified[0]) == (0, 0)
    assert weights_sha256("i3d_tats", folder)["i3d_pretrained_400.pt"] in fetched[1].replace("\n", "")
    assert "none known" in fetched[1]
    assert _row(before, "i3d_400").split()[-1] == "no"
    assert _row(after, "i3d_400").split()[-1] == "yes"
    assert "did you mean 'vggish'" in run("fetch", "vgish")[1]
    assert "has no revisions" in run("fetch", "vggish", "--revision", "main")[1]


def _row(table: str, name: str) -> str:
    return next(line for line in table.splitlines() if line.startswith(f"{name} "))


def test_every_entry_of_the_catalogue_can_be_had_and_states_its_terms() -> None:
    for weights in evaluation_weights().values():
        assert weights.licence
        assert weights.how
        assert any(weights.name in (entry.weights, entry.text_weights) for entry in extractors().values())
        for file in weights.files:
            assert "/" not in file.name
            assert file.url is None or file.url.startswith("https://")
    assert weights_of(extractor_entry("i3d_mmd")).name == "i3d_400"
