"""`uniform captions` on a real run: three sets, one of them from a server with everything that a model may say."""

import csv
import html
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.main import app
from pipelines.run.job import new_run
from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from pipelines.stage_support.caption_table import read_captions
from tests.support.caption_server import caption_server, said
from uniform.errors import InputError
from uniform.spec import TOY
from uniform.synthetic.write import write_world

SCRIPT = "<script>alert('x')</script> stands on a sign, and a ball falls."
RTL = "كرة حمراء تسقط على الأرض وتقفز."
REFUSAL = "I'm sorry, I cannot see it."
SAID = (SCRIPT, RTL, REFUSAL, "A ball falls. There are no texts in the video.", REFUSAL, "A red ball jumps.")
"""Four clips of the first unit, the third one's second attempt, the clip of the second unit."""
CAPTIONER = """
[[captioner]]
name = "local"
backend = "server"
model = "served"
prompt = "short"
frames = 2
batch_clips = 1
retries = 0
address = "{address}"
again = {{ repetition_penalty = 1.2 }}
"""
RECIPE = """
name = "captions"
spec = "toy"
unit_clips = 4
[[stage]]
use = "fetch_media"
[[stage]]
use = "clip_media"
[[stage]]
use = "caption"
as = "caption-given"
set = "given"
source = "given"
[[stage]]
use = "caption"
as = "caption-merged"
set = "merged"
source = "merge"
template = "{{caption}} Filed under {{labels}}."
[[stage]]
use = "caption_video"
set = "model"
captioner = "{captioner}"
"""


def invoke(*words: object) -> str:
    result = CliRunner().invoke(app, ["captions", *map(str, words)])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*words: object) -> str:
    result = CliRunner().invoke(app, ["captions", *map(str, words)])
    assert result.exit_code == 1, result.output
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captions")
    manifest = write_world("w1", TOY, folder / "world", train_clips=4, test_clips=1, seed=5)
    with caption_server(lambda question, number: said(SAID[number])) as server:
        (folder / "local.toml").write_text(CAPTIONER.format(address=server.address))
        (folder / "recipe.toml").write_text(RECIPE.format(captioner=folder / "local.toml"))
        run_pipeline(new_run([manifest], folder / "recipe.toml", folder / "out"), InlineBackend(), LogListener())
    return folder / "out"


def ids(run: Path, name: str) -> list[str]:
    return [row["clip_id"] for row in pq.read_table(run / "captions" / name).to_pylist()]


def test_show_prints_captions_counts_and_reasons(run: Path) -> None:
    everything = invoke("show", run)
    one = invoke("show", run, "--set", "model", "--dropped")

    assert "model (stage caption_video): 1 caption_refusal, 4 ok" in everything
    assert SCRIPT in everything
    assert RTL in everything
    assert "model: A ball falls." in everything
    assert "given (stage caption-given): 5 ok" in everything
    assert "caption_refusal: 'I'm sorry': the model refuses or writes about itself" in one
    assert "ok:" not in one


def test_show_finds_one_clip_and_names_the_nearest_set(run: Path) -> None:
    clip_id = ids(run, "given")[2]

    assert invoke("show", run, "--clip", clip_id).count(clip_id) == 3
    assert "no set has a clip 'x'" in refused("show", run, "--clip", "x")
    assert "no caption set 'modle'; did you mean 'model'" in refused("show", run, "--set", "modle")


def test_diff_shows_words_that_are_new_and_gone(run: Path) -> None:
    output = invoke("diff", run, "given", "merged", "-n", "2")
    other = invoke("diff", run, "given", "model")

    assert "5 clips have both: 5 differ, 0 are the same; only in given: 0, only in merged: 0" in output
    assert output.count("{+Filed under") == 2
    assert "[-" not in output
    assert "4 clips have both: 4 differ" in other
    assert "only in given: 1" in other
    assert "5 clips have both: 0 differ" in invoke("diff", run, "given", "given")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_exported_table_comes_back_with_edits_as_human_and_the_rest_as_it_was(
    suffix: str, run: Path, tmp_path: Path
) -> None:
    table = tmp_path / f"model{suffix}"
    assert "4 captions in" in invoke("export", run, table, "--set", "model")
    before = read_captions(table)
    edited = next(clip_id for clip_id, (text, _) in before.items() if text == "A red ball jumps.")
    if suffix == ".csv":
        table.write_text(table.read_text("utf-8-sig").replace("A red ball jumps.", 'A ball, red; "loud".'))
        table.write_text(table.read_text().replace('A ball, red; "loud".', 'A ball, red; ""loud"".'))
    else:
        rows = pq.read_table(table)
        texts = [t if t != "A red ball jumps." else 'A ball, red; "loud".' for t in rows["caption"].to_pylist()]
        pq.write_table(rows.set_column(rows.column_names.index("caption"), "caption", [texts]), table)

    output = invoke("import", run, table, "--set", "human", "--base", "model")

    after = read_captions(run / "imported" / "human.parquet")
    assert "1 captions edited, 3 unchanged" in output
    assert "1 clips of the run have no caption in it" in output
    assert after == {**before, edited: ('A ball, red; "loud".', "human")}
    assert 'source = "file"' in output


def test_an_imported_set_is_a_stage_like_any_other(run: Path, tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text(
        "clip_id,caption\n" + "".join(f"{clip_id},clip {n}\n" for n, clip_id in enumerate(ids(run, "given")))
    )
    output = invoke("import", run, table, "--set", "human")
    block = output[output.index("[[stage]]") :]
    recipe = tmp_path / "recipe.toml"
    head = (run.parent / "recipe.toml").read_text().partition('[[stage]]\nuse = "caption_video"')[0]
    recipe.write_text(head + block)
    made = run_pipeline(
        new_run([next((run.parent / "world").glob("*.toml"))], recipe, tmp_path / "out"), InlineBackend(), LogListener()
    )

    rows = pq.read_table(tmp_path / "out" / "captions" / "human").to_pylist()
    assert made.final.codes == {"ok": 5}
    assert {row["clip_id"]: row["caption"] for row in rows} == {c: f"clip {n}" for n, c in enumerate(ids(run, "given"))}
    assert {row["origin"] for row in rows} == {"human"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip_id,text\na,b\n", "there is no column 'caption'"),
        ("clip_id,caption\n{id},a\n{id},b\n", "the clip is in the table twice"),
        ("clip_id,caption\n{id}, \n", "the caption is empty"),
        ("clip_id,caption\n{id},a,b\n", "number of fields differs"),
        ("clip_id,caption\nffffffffffffffff,a\n", "1 clips are not in this run"),
        ('clip_id,caption\n{id},"a\n', "not a CSV table"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(text: str, message: str, run: Path, tmp_path: Path) -> None:
    table = tmp_path / "wrong.csv"
    table.write_text(text.replace("{id}", ids(run, "given")[0]))

    assert message in refused("import", run, table, "--set", "x")
    assert not (run / "imported" / "x.parquet").exists()


def test_names_and_files_that_cannot_be_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    (tmp_path / "latin.csv").write_bytes("clip_id,caption\na,caf\xe9\n".encode("latin-1"))

    assert "the file name must end in .csv or .parquet" in refused("export", run, tmp_path / "a.txt", "--set", "given")
    assert "lower case letters" in refused("import", run, tmp_path / "bad.parquet", "--set", "../x")
    assert "is not a run" in refused("show", tmp_path)
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_captions(tmp_path / "bad.parquet")
    with pytest.raises(InputError, match="is not UTF-8"):
        read_captions(tmp_path / "latin.csv")


def test_the_review_page_shows_frames_players_and_every_set_and_escapes_captions(run: Path, tmp_path: Path) -> None:
    output = invoke("review", run, "--out", tmp_path / "review")

    page = (tmp_path / "review" / "captions.html").read_text()
    assert str(tmp_path / "review" / "captions.html") in output.replace("\n", "")
    assert "<script" not in page
    assert html.escape(SCRIPT, quote=False).replace("'", "&#39;") in page
    assert RTL in page
    assert page.count("<article>") == page.count("<video") == 5
    assert page.count("data:image/jpeg") == 25  # four frames and a poster each
    assert "default-src 'none'" in page
    assert page.count('class="tag code"') == 1
    assert len(list((tmp_path / "review").glob("*.mp4"))) == 5


def test_a_small_review_page_shows_dropped_clips_among_others(run: Path, tmp_path: Path) -> None:
    invoke("review", run, "--out", tmp_path, "-n", "3", "--set", "model")

    page = (tmp_path / "captions.html").read_text()
    assert page.count("<article>") == 3
    assert page.count('class="tag code"') == 1
    assert "merged" not in page


def test_csv_keeps_lines_commas_and_quotes(tmp_path: Path) -> None:
    from pipelines.stage_support.caption_table import COLUMNS, write_captions

    row = {**dict.fromkeys(COLUMNS, ""), "clip_id": "a", "caption": 'one, "two"\nthree; 犬', "origin": "model"}
    write_captions(tmp_path / "a.csv", [row])

    assert read_captions(tmp_path / "a.csv") == {"a": ('one, "two"\nthree; 犬', "model")}
    with (tmp_path / "a.csv").open(encoding="utf-8-sig", newline="") as file:
        assert next(iter(csv.reader(file))) == list(COLUMNS)
