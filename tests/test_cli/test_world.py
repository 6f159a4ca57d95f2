"""`uniform world`: write, check, show."""

from pathlib import Path

from typer.testing import CliRunner

from cli.world import app

runner = CliRunner()


def test_check_passes_on_a_written_world(tmp_path: Path) -> None:
    written = runner.invoke(app, ["write", str(tmp_path), "--world", "w1", "--clips", "24", "--seed", "1"])
    checked = runner.invoke(app, ["check", str(tmp_path)])

    assert written.exit_code == 0, written.output
    assert "24 train and 6 test clips" in written.output
    assert checked.exit_code == 0, checked.output
    assert "event F1 of 30 clips" in checked.output


def test_check_exits_with_1_where_the_chance_level_is_out_of_range(tmp_path: Path) -> None:
    """All clips have one seed, so exchanged partners are equal and the chance level is 1."""
    runner.invoke(app, ["write", str(tmp_path), "--clips", "6", "--test-clips", "0"])
    listing = tmp_path / "listing.jsonl"
    first = listing.read_text().splitlines()[0]
    listing.write_text("\n".join([first] * 6) + "\n")

    checked = runner.invoke(app, ["check", str(tmp_path)])

    assert checked.exit_code == 1
    assert "FAILS: shuffled F1 is 1.000; it must be <= 0.3" in checked.output


def test_show_writes_a_png_file(tmp_path: Path) -> None:
    shown = runner.invoke(app, ["show", str(tmp_path / "w2.png"), "--world", "w2", "--spec", "toy", "--clips", "2"])

    assert shown.exit_code == 0, shown.output
    assert (tmp_path / "w2.png").read_bytes().startswith(b"\x89PNG")
    assert len(shown.output.splitlines()) == 2
