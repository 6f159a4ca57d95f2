"""A whole evaluation: its record, what a second run reads, what broken and unequal sets do, what a kill leaves."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.io import wavfile

from tests.support.paths import ROOT
from tests.support.small_evaluation import (
    PROTOCOL,
    SmallNetwork,
    small_extractors,
    small_protocol,
    write_clips,
    write_request,
)
from uniform.errors import InputError, WeightsError
from uniform.evaluation.result import write_result
from uniform.evaluation.run import Evaluation, Options, evaluate
from uniform.evaluation.streams import Extractors
from uniform.media.clip_file import write_clip
from uniform.media.sandbox import MediaSandbox
from uniform.spec import TOY

COUNT = 8


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_clips(folder / "real", COUNT)
    write_clips(folder / "generated", COUNT, noise=14)
    return folder


@pytest.fixture
def sets(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(made, tmp_path / "sets")
    return tmp_path / "sets"


def _run(folder: Path, extractors: Extractors | None = None, text: str = PROTOCOL, **options: Any) -> Evaluation:
    protocol = small_protocol(folder, text)
    settings = Options(**{"workers": 1, **options})
    return evaluate(
        folder / "generated",
        folder / "real",
        protocol,
        settings,
        progress=lambda stage, done, total: None,
        given=extractors or small_extractors(),
    )


def _without_times(path: Path) -> str:
    result = json.loads(path.read_text())
    del result["times"]
    return json.dumps(result, sort_keys=True)


def _networks(extractors: Extractors) -> list[SmallNetwork]:
    return [extractors.open(name) for name in ("yamnet", "effnet_lite0", "transnetv2")]  # type: ignore[misc]


def test_the_record_holds_every_row_with_n_interval_and_what_it_was_made_with(sets: Path) -> None:
    found = _run(sets)
    result = write_result(found, sets / "out", "now")

    assert result["protocol"]["digest"] == found.protocol.digest
    assert set(result["rows"]) == {"generated", "real", "real_halves", "shuffled", "worst"}
    cell = result["rows"]["generated"]["fd_yamnet"]
    assert cell["low"] <= cell["value"] <= cell["high"]
    assert (cell["clips"], cell["vectors"]) == (COUNT, COUNT)
    assert {"value", "low", "high", "r_squared"} == set(cell["extrapolated"])
    assert result["rows"]["real_halves"]["fd_yamnet"]["clips"] == COUNT // 2
    assert result["names"]["fd_yamnet"] == f"fd_yamnet@{COUNT}"
    assert {"extractor", "file", "sha256", "known"} == set(result["weights"][0])
    assert result["versions"]["uniform"]
    rows = pq.read_table(sets / "out" / "clips.parquet").to_pylist()
    mine = [row for row in rows if row["side"] == "generated"]
    assert np.mean([row["kl_yamnet_exact"] for row in mine]) == pytest.approx(
        result["rows"]["generated"]["kl_yamnet_exact"]["value"]
    )
    assert all(row["onsets_s"] is not None and len(row["motion_curve"]) == TOY.frames for row in mine)


def test_a_second_run_reads_no_media_and_gives_equal_bytes_but_for_times(
    sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _run(sets)
    write_result(first, sets / "one", "then")

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a media file was opened")

    monkeypatch.setattr(MediaSandbox, "_request", refuse)
    monkeypatch.setattr("uniform.evaluation.clip_files.file_sha256", refuse)
    extractors = small_extractors()
    second = _run(sets, extractors)
    write_result(second, sets / "two", "now")

    assert (first.times.decoded, second.times.decoded) == (4 * COUNT, 0)
    assert _without_times(sets / "one/result.json") == _without_times(sets / "two/result.json")
    assert (sets / "one/clips.parquet").read_bytes() == (sets / "two/clips.parquet").read_bytes()
    assert all(network.clips_seen == 0 for network in _networks(extractors))


def test_other_draws_compute_no_feature_and_another_reading_computes_only_what_it_changes(sets: Path) -> None:
    _run(sets)
    draws = small_extractors()
    _run(sets, draws, PROTOCOL.replace("draws = 200", "draws = 300"))
    assert all(network.clips_seen == 0 for network in _networks(draws))

    size = small_extractors()
    _run(sets, size, PROTOCOL.replace("size_px = 64", "size_px = 32"))
    yamnet, *videos = _networks(size)
    assert yamnet.clips_seen == 0
    assert all(network.clips_seen == 3 * COUNT for network in videos)  # generated, real, worst


def test_a_file_that_changes_is_read_again_and_alone(sets: Path) -> None:
    _run(sets)
    write_clips(sets / "generated", 1, noise=40, first=0)
    again = _run(sets)

    assert again.times.decoded == 2  # its header, and the clip


def test_new_code_or_weights_compute_features_again(sets: Path) -> None:
    _run(sets)
    extractors = small_extractors()
    _networks(extractors)[0].code_version = 2
    _run(sets, extractors)

    yamnet, lite0, _ = _networks(extractors)
    assert yamnet.clips_seen == 2 * COUNT + 1  # of the silent clips one is enough
    assert lite0.clips_seen == 0


def test_more_noise_is_further_away(sets: Path) -> None:
    write_clips(sets / "worse", COUNT, noise=60)
    near = _run(sets).table.cells["generated"]
    shutil.rmtree(sets / "generated")
    (sets / "worse").rename(sets / "generated")
    far = _run(sets).table.cells["generated"]

    for name in ("fd_yamnet", "kad_yamnet"):  # classes of an untrained network order nothing
        assert (near[name].value or 0.0) < (far[name].value or 0.0), name


def test_a_set_against_itself_is_at_zero_and_not_resolved(sets: Path) -> None:
    shutil.rmtree(sets / "generated")
    shutil.copytree(sets / "real", sets / "generated", ignore=shutil.ignore_patterns(".uniform-features"))
    cells = _run(sets).table.cells["generated"]

    assert cells["fd_yamnet"].value == pytest.approx(0.0, abs=1e-6)
    assert cells["kl_yamnet_exact"].value == 0.0
    assert cells["fd_yamnet"].resolved is False


def test_clips_without_a_partner_are_refused_with_counts_and_names(sets: Path) -> None:
    for number in (1, 3):
        (sets / "generated" / f"clip-{number:03d}.mp4").unlink()

    with pytest.raises(
        InputError, match=r"6 generated and 8 real clips: 2 real without a partner .*clip-001, clip-003"
    ):
        _run(sets)
    assert _run(sets, allow_unequal=True).table.cells["generated"]["fd_yamnet"].clips == 6


def test_sets_of_unequal_number_are_refused_where_clips_need_no_partner(sets: Path) -> None:
    (sets / "generated" / "clip-001.mp4").unlink()
    text = PROTOCOL.replace("[statistics]", "[sets]\nsame_clips = false\n[statistics]").replace(
        '[[metrics]]\nname = "kl_yamnet_exact"\n', ""
    )

    with pytest.raises(InputError, match=r"7 generated clips .* and 8 real ones"):
        _run(sets, text=text)
    cells = _run(sets, text=text, allow_unequal=True).table.cells
    assert cells["generated"]["fd_yamnet"].clips == 7


def test_sets_of_unequal_duration_are_refused_with_counts(sets: Path) -> None:
    for path in (sets / "generated").glob("*.mp4"):
        write_clip(path, np.zeros((17, 64, 64, 3), np.uint8), np.zeros(16_000, np.float32), 17, 16_000)

    with pytest.raises(InputError, match=r"usually 1\.00 s long and 8 real ones 2\.00 s.*clip-000, clip-001"):
        _run(sets)


def _broken(folder: Path) -> dict[str, str]:
    """Broken clips of many kinds beside the good ones -> the code that each must get."""
    good = (folder / "clip-000.mp4").read_bytes()
    still, silence = np.full((34, 64, 64, 3), 90, np.uint8), np.zeros(32_000, np.float32)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "page.mp4").write_text("<!doctype html><title>404</title>")
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "half.mp4").write_bytes(good[: len(good) // 3])
    (folder / "short.mp4").unlink(missing_ok=True)
    write_clip(folder / "short.mp4", still[:20], silence[:18_000], 17, 16_000)
    wavfile.write(folder / "audio-only.wav", 16_000, np.zeros(32_000, np.int16))
    (folder / "audio-only.wav").rename(folder / "audio-only.mp4")
    return {
        "empty": "empty_file",
        "page": "not_media",
        "noise": "not_media",
        "half": "",
        "short": "too_short",
        "audio-only": "no_video",
    }


def test_broken_clips_are_dropped_with_their_codes_and_n_is_what_is_left(sets: Path) -> None:
    codes = _broken(sets / "generated")
    for name in codes:
        shutil.copy(sets / "real" / "clip-000.mp4", sets / "real" / f"{name}.mp4")

    found = _run(sets)

    dropped = {drop.clip_id: drop.code for drop in found.drops if drop.side == "generated"}
    assert set(dropped) == set(codes)
    assert all(dropped[name] == code for name, code in codes.items() if code)
    partners = {drop.clip_id: drop.code for drop in found.drops if drop.side == "real"}
    assert partners == dict.fromkeys(codes, "partner_dropped")
    assert found.table.cells["generated"]["fd_yamnet"].clips == COUNT
    result = write_result(found, sets / "out", "now")
    assert result["drops"]["counts"]["generated"]["empty_file"] == 1
    assert (result["sets"]["generated"]["files"], result["sets"]["generated"]["clips"]) == (COUNT + len(codes), COUNT)
    assert _run(sets).times.decoded == 0  # broken files are remembered too


def test_silent_and_frozen_clips_are_counted_and_kept(sets: Path) -> None:
    still, silence = np.full((34, 64, 64, 3), 90, np.uint8), np.zeros(32_000, np.float32)
    write_clip(sets / "generated" / "clip-002.mp4", still, silence, 17, 16_000)
    result = write_result(_run(sets), sets / "out", "now")

    assert (result["sets"]["generated"]["silent"], result["sets"]["generated"]["frozen"]) == (1, 1)
    assert result["rows"]["generated"]["fd_yamnet"]["clips"] == COUNT


AUDIO_PROTOCOL = re.sub(r'\[\[metrics\]\]\nname = "(kad_effnet|fd_transnet|av_align)[^\n]*\n', "", PROTOCOL)


def test_audio_files_do_where_no_metric_looks_at_frames_and_not_finite_samples_drop_a_clip(tmp_path: Path) -> None:
    random_ = np.random.default_rng(0)
    for side in ("real", "generated"):
        (tmp_path / side).mkdir()
        for number in range(6):
            wavfile.write(tmp_path / side / f"{number}.wav", 16_000, random_.normal(0, 0.1, 32_000).astype(np.float32))
    bad = np.zeros(32_000, np.float32)
    bad[100:120] = np.nan
    wavfile.write(tmp_path / "generated" / "3.wav", 16_000, bad)

    found = _run(tmp_path, text=AUDIO_PROTOCOL)

    assert [(drop.side, drop.clip_id, drop.code) for drop in found.drops] == [
        ("generated", "3", "not_finite"),
        ("real", "3", "partner_dropped"),
    ]
    assert found.table.cells["generated"]["fd_yamnet"].clips == 5


def test_nothing_left_to_compare_is_an_error_with_the_codes(sets: Path) -> None:
    for path in (sets / "generated").glob("*.mp4"):
        path.write_bytes(b"no media at all, only some bytes of text")

    with pytest.raises(InputError, match=r"0 of 8 generated clips are left \(\{'not_media': 8\}\)"):
        _run(sets)


def test_names_and_captions_are_escaped_on_the_page(sets: Path) -> None:
    evil = "<script>alert(1)</script>"
    for side in ("real", "generated"):
        (sets / side / "clip-000.mp4").rename(sets / side / "a<b>&'x.mp4")
    write_request(sets / "generated" / "a<b>&'x.mp4", evil)
    write_result(_run(sets), sets / "out", "now")
    page = (sets / "out" / "index.html").read_text()

    assert evil not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "a<b>" not in page
    assert "Content-Security-Policy" in page
    assert not re.search(r"(src|href)=\"(https?:)?//", page)
    assert "a%3Cb%3E%26%27x.mp4" in page


def test_weights_of_unknown_digest_are_recorded_or_refused(sets: Path) -> None:
    assert all(not record.known for record in _run(sets).plan.weights)
    with pytest.raises(WeightsError, match="no publisher states these digests"):
        _run(sets, require_known=True)


def test_a_network_that_is_missing_is_an_error_or_its_metrics_are_left_out(sets: Path, tmp_path: Path) -> None:
    text = PROTOCOL.replace('name = "fd_yamnet"', 'name = "fad_vggish"')

    with pytest.raises(WeightsError, match=r"vggish-10086976\.pth is neither in"):
        _run(sets, text=text, weights=tmp_path)
    found = _run(sets, text=text, weights=tmp_path, skip_missing=True)
    assert "vggish" in found.plan.unavailable
    assert "fad_vggish" not in found.table.cells["generated"]
    assert found.table.cells["generated"]["kad_yamnet"].clips == COUNT


def test_features_that_are_not_finite_drop_a_clip_from_their_metrics_alone(sets: Path) -> None:
    class Broken(SmallNetwork):
        def features(self, **inputs: Any) -> Any:
            found = super().features(**inputs)
            if self.clips_seen == 1:
                found["embedding"][0, 0] = float("nan")
            return found

    extractors = Extractors(
        Path("nowhere"),
        given={**{n.name: n for n in _networks(small_extractors())}, "yamnet": Broken("yamnet", "audio")},
    )
    found = _run(sets, extractors)

    assert found.table.cells["generated"]["fd_yamnet"].clips == COUNT - 1
    assert found.table.cells["generated"]["kad_effnet_lite0"].clips == COUNT


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.support.small_evaluation import small_extractors, small_protocol
from uniform.evaluation.result import write_result
from uniform.evaluation.run import Options, evaluate
folder = Path(sys.argv[1])
found = evaluate(folder / "generated", folder / "real", small_protocol(folder), Options(workers=1, part_clips=2),
                 progress=lambda *state: print(*state, flush=True), given=small_extractors())
write_result(found, folder / "out", "now")
"""


def _start(folder: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", CHILD, str(folder), str(ROOT)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ})


def _killed_runs(folder: Path, kills: int, seed: int) -> Iterator[float]:
    """Start, kill at a random moment, `kills` times; then run to the end. Yields the moments."""
    moments = random.Random(seed)
    for _ in range(kills):
        child = _start(folder)
        moment = moments.uniform(1.0, 4.0)
        time.sleep(moment)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        yield moment
    child = _start(folder)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors.decode()


def _same_as_unkilled(sets: Path, kills: int) -> None:
    shutil.copytree(sets, sets.parent / "whole")
    whole = sets.parent / "whole"
    list(_killed_runs(whole, 0, 0))
    assert len(list(_killed_runs(sets, kills, 1))) == kills

    results = [_without_times(folder / "out/result.json").replace(str(folder), "") for folder in (whole, sets)]
    assert results[0] == results[1]
    for side in ("real", "generated"):
        for index in (sets / side / ".uniform-features").glob("*-*/part-*.parquet"):
            assert index.with_suffix(".safetensors").exists()
    for key in {path.parent for path in (sets / "generated").rglob("part-*.parquet")}:
        rows = [row for path in key.glob("part-*.parquet") for row in pq.read_table(path).to_pylist()]
        contents = [row.get("content", row.get("path")) for row in rows]
        assert len(contents) == len(set(contents)) == COUNT, "a clip was written twice, or not at all"


def test_a_run_that_is_killed_goes_on_to_the_same_result(sets: Path) -> None:
    _same_as_unkilled(sets, kills=2)


@pytest.mark.slow
def test_a_run_that_is_killed_at_twenty_moments_goes_on_to_the_same_result(sets: Path) -> None:
    _same_as_unkilled(sets, kills=20)
