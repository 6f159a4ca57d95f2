"""`uniform evaluate`: a table and a JSON file."""

import json
from pathlib import Path

from typer.testing import CliRunner

from cli.evaluate import app
from uniform.media.clip_file import write_clip
from uniform.spec import TOY
from uniform.synthetic.scene import Truth
from uniform.synthetic.worlds import make_clip
from uniform.synthetic.write import write_world


def test_evaluate_prints_a_table_and_writes_every_number(tmp_path: Path) -> None:
    world, samples = tmp_path / "world", tmp_path / "samples"
    write_world("w1", TOY, world, train_clips=0, test_clips=3)
    for number, text in enumerate((world / "listing.jsonl").read_text().splitlines()):
        line = json.loads(text)
        clip = make_clip("w1", Truth.from_json(line["truth"]).seed, TOY)
        write_clip(samples / f"{number}.mp4", clip.frames, clip.waveform, TOY.fps, TOY.rate_hz)
        request = {"task": "v2a", "text": None, "media": str(world / line["path"]), "start_ms": line["start_ms"]}
        (samples / f"{number}.json").write_text(json.dumps({"request": request}))

    done = CliRunner().invoke(app, [str(samples), "--world", str(world), "--out", str(tmp_path / "scores.json")])

    assert done.exit_code == 0, done.output
    assert "v2a" in done.output
    assert "audio_f1            1.000" in done.output
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["v2a"]["pitch"]["mean"] == 1.0
