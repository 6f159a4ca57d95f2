"""Sites that cut their videos into segments: the smallest adequate format comes whole, with no hole and no cut."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import pytest

from pipelines.fetching.base import FetchError
from tests.support.hostile_server import HostileServer, hostile_server
from tests.test_pipelines.fetching.test_fetch_sites import ROW, fetcher
from uniform.media.ffmpeg import ffmpeg_program

HEIGHTS = (144, 240, 272, 360, 480)
SECONDS = 6


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with hostile_server() as running:
        yield running


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One clip with sound in five heights, as HLS and as DASH, in segments of a second."""
    folder = tmp_path_factory.mktemp("streams")
    clip = ["-f", "lavfi", "-i", f"testsrc2=rate=10:duration={SECONDS}", "-f", "lavfi"]
    clip += ["-i", f"sine=duration={SECONDS}", "-c:v", "libx264", "-preset", "ultrafast", "-g", "10", "-c:a", "aac"]
    sizes = "".join(f"[v{n}]scale=-2:{height}[o{n}];" for n, height in enumerate(HEIGHTS)).rstrip(";")
    clip += ["-filter_complex", f"[0:v]split={len(HEIGHTS)}{''.join(f'[v{n}]' for n in range(len(HEIGHTS)))};{sizes}"]
    videos = [part for n in range(len(HEIGHTS)) for part in ("-map", f"[o{n}]")]
    rates = [part for n, height in enumerate(HEIGHTS) for part in (f"-b:v:{n}", f"{height * 2}k")]
    sounds = [part for _ in HEIGHTS for part in ("-map", "1:a")]
    pairs = " ".join(f"v:{n},a:{n},name:{height}" for n, height in enumerate(HEIGHTS))
    hls = [*videos, *sounds, *rates, "-f", "hls", "-hls_time", "1", "-hls_playlist_type", "vod"]
    hls += ["-master_pl_name", "master.m3u8", "-var_stream_map", pairs, str(folder / "%v.m3u8")]
    dash = [*videos, "-map", "1:a", *rates, "-f", "dash", "-seg_duration", "1", str(folder / "clip.mpd")]
    for output in (hls, dash):
        subprocess.run([ffmpeg_program() or "", "-v", "error", *clip, *output], check=True, cwd=folder)
    return folder


def serve(server: HostileServer, streams: Path) -> None:
    server.files = {f"/{path.name}": path.read_bytes() for path in streams.iterdir()}


@pytest.mark.parametrize("manifest", ["master.m3u8", "clip.mpd"])
def test_the_smallest_adequate_format_comes_whole(
    server: HostileServer, streams: Path, tmp_path: Path, manifest: str
) -> None:
    serve(server, streams)
    fetched = fetcher(tmp_path).fetch(replace(ROW, source_uri=server.url(f"/{manifest}")))

    with av.open(str(fetched.path)) as clip:
        assert clip.streams.video[0].height == 272
        assert clip.streams.audio
        frames = sum(1 for _ in clip.decode(video=0))
    assert frames == SECONDS * 10
    assert "272p" in fetched.notes[0]
    metadata = json.loads(fetched.path.with_suffix(".json").read_text())
    assert (metadata["bytes"], metadata["sha256"]) == (fetched.size_bytes, fetched.sha256)


@pytest.mark.parametrize("damage", ["missing", "cut"])
@pytest.mark.parametrize(("manifest", "segment"), [("master.m3u8", "2723.ts"), ("clip.mpd", "chunk-stream2-00003.m4s")])
def test_a_video_with_a_hole_is_no_success(
    server: HostileServer, streams: Path, tmp_path: Path, manifest: str, segment: str, damage: str
) -> None:
    serve(server, streams)
    content = server.files.pop(f"/{segment}")
    if damage == "cut":
        server.cut[f"/{segment}"] = content
    with pytest.raises(FetchError) as caught:
        fetcher(tmp_path, attempts=1).fetch(replace(ROW, source_uri=server.url(f"/{manifest}")))

    assert caught.value.code in ("data_forbidden", "incomplete"), caught.value
    assert not [path for path in tmp_path.rglob("*.mp4") if not path.parent.name.startswith(".")]
