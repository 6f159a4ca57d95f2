"""Units are cut once; the plan says what is done, what is stale and why."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pipelines.clip import Clip
from pipelines.codes import CODES
from pipelines.run.folder import RunFolder
from pipelines.run.job import Run, make_run
from pipelines.run.ledger import status_of
from pipelines.run.pipeline import InlineBackend, LogListener, RunResult, run_pipeline
from pipelines.run.plan import Plan, make_plan
from pipelines.run.provenance import RunInputs
from pipelines.run.record import read_run_record
from pipelines.run.retry import plan_again
from pipelines.run.state import read_run_state
from pipelines.run.units import Units, in_order
from tests.support.fake_stages import Cut, Encode, Look, Say, fake_run, recipe, results, rows, seed
from uniform.errors import ManifestError, PipelineError, ShardError
from uniform.latents.shards.index import open_index
from uniform.spec import TOY


def do(run: Run, **options: object) -> RunResult:
    return run_pipeline(run, InlineBackend(), LogListener(), **options)  # type: ignore[arg-type]


def plan(run: Run) -> Plan:
    units = run.units()
    return make_plan(
        read_run_state(run.folder, run.recipe.names, len(units)), RunInputs(run.recipe, units), run.recipe.steps
    )


def stale_reasons(run: Run) -> dict[str, set[str]]:
    found = plan(run)
    return {stage: {text for one in found.of(stage, "stale") for text in one.reasons} for stage in found.stages}


def test_units_do_not_depend_on_the_order_of_the_listing(tmp_path: Path) -> None:
    there, back = rows(20), rows(20)[::-1]

    first, second = (make_run(listing, recipe(), tmp_path).units() for listing in (there, back))

    assert first.plan.equals(second.plan)
    assert [first.ids(unit) for unit in range(4)] == [
        in_order(row.clip_id for row in there)[begin : begin + 6] for begin in (0, 6, 12, 18)
    ]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    there = rows(20)
    do(make_run(there, recipe(), tmp_path), until="say")

    found = Units.read(RunFolder(tmp_path))

    assert (
        sorted((row for unit in range(len(found)) for row in found.rows(unit)), key=lambda row: row.start_ms) == there
    )


def test_a_fresh_plan_is_all_pending_and_writes_nothing(tmp_path: Path) -> None:
    found = plan(fake_run(tmp_path / "out"))

    assert all(len(found.of(stage, "pending")) == 4 for stage in recipe().names)
    assert not (tmp_path / "out").exists()


def test_a_second_run_finds_everything_done(tmp_path: Path) -> None:
    first = do(fake_run(tmp_path))
    second = do(fake_run(tmp_path))

    assert (first.units_made, second.units_made, second.units_found) == (20, 0, 20)
    assert plan(fake_run(tmp_path)).finished


def test_until_stops_after_a_stage_and_leaves_no_index(tmp_path: Path) -> None:
    result = do(fake_run(tmp_path), until="look")

    assert list(result.stages) == ["cut", "look"]
    assert result.indexed is None
    assert not (tmp_path / "index.parquet").exists()


@pytest.mark.parametrize(
    ("changed", "stale"),
    [
        (recipe(say=Say(prefix="the sound of ")), {"say", "spell"}),
        (recipe(encode=Encode(gain=2.0)), {"encode"}),
        (recipe(cut=Cut(size=500)), {"cut", "look", "encode"}),
    ],
)
def test_a_changed_option_makes_only_what_depends_on_it_stale(changed: object, stale: set[str], tmp_path: Path) -> None:
    do(fake_run(tmp_path))

    assert {name for name, texts in stale_reasons(fake_run(tmp_path, made=changed)).items() if texts} == stale  # type: ignore[arg-type]


def test_the_reason_names_the_old_and_the_new_value(tmp_path: Path) -> None:
    do(fake_run(tmp_path))

    reasons = stale_reasons(fake_run(tmp_path, made=recipe(cut=Cut(size=500))))

    assert reasons["cut"] == {"provenance.size: 400 -> 500"}
    assert reasons["encode"] == {"upstream.cut: will be made again"}


def test_another_spec_makes_everything_stale(tmp_path: Path) -> None:
    do(fake_run(tmp_path))
    other = replace(recipe(), spec=replace(TOY, name="other", mel_bins=32))

    assert all("spec.mel_bins: 16 -> 32" in texts for texts in stale_reasons(fake_run(tmp_path, made=other)).values())


def test_a_changed_column_makes_only_the_stages_stale_that_read_it(tmp_path: Path) -> None:
    do(fake_run(tmp_path))
    changed = make_run([replace(row, labels=("cat",)) for row in rows(20)], recipe(), tmp_path)

    assert {name for name, texts in stale_reasons(changed).items() if texts} == {"say", "spell"}


def test_stale_units_stop_a_run_and_nothing_is_touched(tmp_path: Path) -> None:
    do(fake_run(tmp_path))
    before = results(tmp_path)

    with pytest.raises(PipelineError, match=r"provenance.gain: 1.0 -> 2.0|settings.gain: 1.0 -> 2.0") as refused:
        do(fake_run(tmp_path, made=recipe(encode=Encode(gain=2.0))))

    assert "--replace-stale" in str(refused.value)
    assert results(tmp_path) == before


def test_replaced_units_equal_those_of_a_fresh_run(tmp_path: Path) -> None:
    changed = recipe(cut=Cut(size=500), look=Look(floor=60))
    do(fake_run(tmp_path / "old"))
    do(fake_run(tmp_path / "new", made=changed))

    do(fake_run(tmp_path / "old", made=changed), replace_stale=True)

    assert results(tmp_path / "old") == results(tmp_path / "new")


def test_new_captions_touch_no_latent(tmp_path: Path) -> None:
    do(fake_run(tmp_path))
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("latents-*.tar")}

    do(fake_run(tmp_path, made=recipe(say=Say(prefix="new "))), replace_stale=True)

    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("latents-*.tar")} == before


def test_a_limit_plans_the_first_clips_and_a_larger_one_adds_units(tmp_path: Path) -> None:
    do(fake_run(tmp_path, limit=8))
    before = results(tmp_path)

    result = do(fake_run(tmp_path))

    units = Units.read(RunFolder(tmp_path))
    assert (result.final.clips, len(units), units.origin(2)) == (20, 4, "added")
    assert all(results(tmp_path)[name] == content for name, content in before.items() if name.endswith(".tar"))


def test_clips_that_vanish_from_the_manifest_are_refused(tmp_path: Path) -> None:
    do(fake_run(tmp_path))

    with pytest.raises(PipelineError, match="3 planned clips are no longer in the manifest"):
        do(fake_run(tmp_path, clips=17))


def test_a_manifest_of_zero_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="names no clip"):
        do(fake_run(tmp_path / "out", clips=0))


def test_a_clip_that_two_manifests_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="named twice"):
        make_run([*rows(3), rows(3)[1]], recipe(), tmp_path)


def test_retried_clips_go_into_a_further_unit_and_end_where_they_would_have_been(tmp_path: Path) -> None:
    there = tmp_path / "there"
    made = recipe(cut=Cut(fail_if_missing=str(there)))
    first = do(fake_run(tmp_path / "out", made=made))
    assert first.final.failed == first.final.codes["missing_source"] > 0
    shards = {name: content for name, content in results(tmp_path / "out").items() if name.endswith(".tar")}

    there.touch()
    assert plan_again(RunFolder(tmp_path / "out"), "missing_source", 6) == [4]
    units = Units.read(RunFolder(tmp_path / "out"))
    second = do(Run(folder=RunFolder(tmp_path / "out"), recipe=made, roots={}))

    assert units.origin(4) == "retry:missing_source"
    assert len(units.ids(4)) == first.final.failed
    assert (second.final.clips, second.final.failed) == (20, 0)
    assert second.final.kept == first.final.kept + second.stages["cut"].kept - first.stages["cut"].kept
    assert second.indexed == second.final.kept
    now = results(tmp_path / "out")
    assert all(now[name] == content for name, content in shards.items())
    assert plan_again(RunFolder(tmp_path / "out"), "missing_source", 6) == []


@pytest.mark.parametrize(
    ("code", "message"),
    [("too_short", "asking again changes nothing"), ("too_shrt", "no code 'too_shrt'; did you mean 'too_short'")],
)
def test_retry_refuses_what_cannot_change(code: str, message: str, tmp_path: Path) -> None:
    do(fake_run(tmp_path))

    with pytest.raises(PipelineError, match=message):
        plan_again(RunFolder(tmp_path), code, 6)


@pytest.mark.parametrize("code", ["address_refused", "too_large", "decode_timeout", "decode_memory", "decode_crash"])
def test_what_our_own_limits_cost_can_be_asked_for_again(code: str, tmp_path: Path) -> None:
    do(fake_run(tmp_path))

    assert plan_again(RunFolder(tmp_path), code, 6) == []
    assert (CODES[code].policy, status_of(code)) == ("over_limit", "failed")
    assert CODES[code].remedy == "with another limit in the recipe, uniform pipeline retry"


@dataclass(frozen=True, kw_only=True)
class Repairable(Cut):
    """Rejects every third clip as a file that was cut short, until somebody repairs them."""

    repaired: str

    def _one(self, clip: Clip) -> Clip:
        if seed(clip.row) % 3 == 0 and not Path(self.repaired).exists():
            return clip.drop("truncated", "the header promises 4.00 s; the file's last packet ends at 1.00 s")
        return super()._one(clip)


def test_what_is_final_is_planned_again_by_force(tmp_path: Path) -> None:
    folder, repaired = RunFolder(tmp_path / "out"), tmp_path / "repaired"
    made = recipe(cut=Repairable(reject_every=None, repaired=str(repaired)), look=Look(floor=0))
    first = do(fake_run(folder.path, made=made))
    assert first.final.rejected == first.final.codes["truncated"] > 0
    repaired.touch()
    with pytest.raises(PipelineError, match="add --force"):
        plan_again(folder, "truncated", 6)

    assert plan_again(folder, "truncated", 6, force=True) == [4]
    second = do(Run(folder=folder, recipe=made, roots={}))

    assert second.final.codes == {"ok": 20}
    assert second.indexed == 20


def test_a_retry_unblocks_its_policy_and_keeps_what_an_older_retry_unblocked(tmp_path: Path) -> None:
    do(fake_run(tmp_path))
    folder = RunFolder(tmp_path)
    assert folder.unblocked_at_s() == {}
    folder.unlocked.write_text('{"time": 12.5}')

    plan_again(folder, "too_short", 6, force=True)

    unblocked_at_s = folder.unblocked_at_s()
    assert set(unblocked_at_s) == {"needs_credentials", "rejected"}
    assert unblocked_at_s["needs_credentials"] == 12.5
    assert time.time() - unblocked_at_s["rejected"] < 60


@pytest.mark.parametrize("at", ["_codec", "Card.write"])
def test_a_kill_between_index_and_card_leaves_no_older_card(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    do(fake_run(tmp_path, clips=12))
    with monkeypatch.context() as patched:
        patched.setattr(f"pipelines.run.index_writer.{at}", killed)
        with pytest.raises(KeyboardInterrupt):
            do(fake_run(tmp_path, clips=20))

    with pytest.raises(ShardError, match=r"card\.json: not found"):
        open_index(tmp_path)
    assert do(fake_run(tmp_path, clips=20)).indexed == len(open_index(tmp_path))


def test_a_damaged_marker_is_named(tmp_path: Path) -> None:
    do(fake_run(tmp_path))
    marker = tmp_path / "commits" / "cut" / "000001.json"
    marker.write_text(marker.read_text()[:40])

    with pytest.raises(PipelineError, match=r"commits/cut/000001.json: not a commit marker"):
        do(fake_run(tmp_path))


def test_a_removed_marker_makes_just_that_unit_again(tmp_path: Path) -> None:
    do(fake_run(tmp_path))
    before = results(tmp_path)
    (tmp_path / "commits" / "encode" / "000002.json").unlink()

    result = do(fake_run(tmp_path))

    assert (result.units_made, results(tmp_path)) == (1, before)


def test_a_ledger_that_lost_a_row_stops_the_run(tmp_path: Path) -> None:
    do(fake_run(tmp_path))
    marker = tmp_path / "commits" / "cut" / "000001.json"
    values = json.loads(marker.read_text())
    marker.write_text(json.dumps({**values, "clips": values["clips"] + 1}))

    with pytest.raises(PipelineError, match="clips"):
        do(fake_run(tmp_path))


def test_a_run_reads_each_commit_marker_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    do(fake_run(tmp_path))
    read: list[Path] = []
    read_bytes = Path.read_bytes

    def counted(path: Path) -> bytes:
        read.extend([path] if "commits" in path.parts else [])
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    do(fake_run(tmp_path))

    assert len(read) == len(set(read)) == 4 * len(recipe().names)


def test_a_state_is_extended_by_commits_and_never_changed(tmp_path: Path) -> None:
    run = fake_run(tmp_path)
    do(run, until="cut")
    state = read_run_state(run.folder, ("cut", "look"), 4)
    commits = state.finished("cut")

    without = state.without("cut", [1, 3])

    assert [commit.unit for commit in without.finished("cut")] == [0, 2]
    assert without.with_commits(commits) == state
    assert len(commits) == 4
    with pytest.raises(PipelineError, match="unit 1 was not committed by stage 'cut'; run that stage first"):
        without.committed("cut", 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ('{"format": 7}', "format 7, this toolkit reads 1"),
        ('{"format": 1, "recipe": "x", "recipe_source": "toy", "stages": 5}', "cannot be read"),
        ("[1]", "cannot be read"),
    ],
)
def test_a_damaged_run_json_is_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)

    with pytest.raises(PipelineError, match=rf"run\.json: {message}"):
        read_run_record(RunFolder(tmp_path))
