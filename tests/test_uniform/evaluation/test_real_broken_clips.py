"""Broken files as they are found in the wild, among good ones: the run ends, N and drop codes are right."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from pipelines.codes import CODES
from tests.support.paths import ROOT
from tests.support.small_evaluation import small_extractors, small_protocol, write_clips
from uniform.errors import MediaError
from uniform.evaluation.result import write_result
from uniform.evaluation.run import Options, evaluate
from uniform.media.sandbox import MediaSandbox

CLIPS = ROOT.parent / "shared" / "clips"
BROKEN = 35
GOOD = 6


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the folder of real clips is not here")
def test_broken_files_of_the_wild_are_dropped_as_the_media_reader_says(tmp_path: Path) -> None:
    real, generated = tmp_path / "real", tmp_path / "generated"
    write_clips(real, GOOD)
    write_clips(generated, GOOD, noise=10)
    files = sorted(path for path in CLIPS.iterdir() if path.name.startswith("d"))[:BROKEN]
    files += sorted(path for path in CLIPS.iterdir() if path.name.startswith("b"))[: BROKEN - len(files)]
    protocol = small_protocol(tmp_path)
    expected = {}
    with MediaSandbox() as sandbox:
        for number, path in enumerate(files):
            name = f"broken-{number:02d}"
            copied = generated / f"{name}.mp4"
            shutil.copy(path, copied)
            shutil.copy(real / "clip-000.mp4", real / f"{name}.mp4")
            try:
                sandbox.load(copied, protocol.protocol.reading.spec, native_audio=True)
                expected[name] = "ok"
            except MediaError as error:
                expected[name] = error.code

    found = evaluate(
        generated, real, protocol, Options(workers=2), progress=lambda *state: None, given=small_extractors()
    )
    result = write_result(found, tmp_path / "out", "now")

    codes = {record.clip.clip_id: record.drop.code if record.drop else "ok" for record in found.generated}
    assert {name: codes[name] for name in expected} == expected
    assert set(expected.values()) - {"ok"} <= set(CODES)
    kept = GOOD + sum(code == "ok" for code in expected.values())
    assert result["rows"]["generated"]["fd_yamnet"]["clips"] == kept
    counts = Counter(code for code in expected.values() if code != "ok")
    assert result["drops"]["counts"]["generated"] == dict(sorted(counts.items()))
    assert result["drops"]["counts"]["real"] == {"partner_dropped": counts.total()}
    assert counts.total() >= 15
