"""`uniform world`: write, gate, show."""

from pathlib import Path

from typer.testing import CliRunner

from cli.world import app

runner = CliRunner()


def test_write_then_gate_passes(tmp_path: Path) -> None:
    written = runner.invoke(app, ["write", str(tmp_path), "--world", "w1", "--clips", "24", "--seed", "1"])
    judged = runner.invoke(app, ["gate", str(tmp_path)])

    assert written.exit_code == 0, written.output
    assert "24 train and 6 test clips" in written.output
    assert judged.exit_code == 0, judged.output
    assert "event F1 of 30 clips" in judged.output


def test_gate_exits_with_one_where_chance_is_not_where_it_must_be(tmp_path: Path) -> None:
    """Clips of one seed only: every partner is the same clip, so exchanging them changes nothing."""
    runner.invoke(app, ["write", str(tmp_path), "--clips", "6", "--test-clips", "0"])
    listing = tmp_path / "listing.jsonl"
    first = listing.read_text().splitlines()[0]
    listing.write_text("\n".join([first] * 6) + "\n")

    judged = runner.invoke(app, ["gate", str(tmp_path)])

    assert judged.exit_code == 1
    assert "FAILS: shuffled F1 is 1.000; it must be <= 0.3" in judged.output


def test_show_draws_a_picture(tmp_path: Path) -> None:
    shown = runner.invoke(app, ["show", str(tmp_path / "w2.png"), "--world", "w2", "--spec", "toy", "--clips", "2"])

    assert shown.exit_code == 0, shown.output
    assert (tmp_path / "w2.png").read_bytes().startswith(b"\x89PNG")
    assert len(shown.output.splitlines()) == 2
