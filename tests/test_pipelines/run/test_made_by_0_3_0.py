"""Runs made by version 0.3.0 are read, found complete, and go on to the same bytes."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.recipe import read_recipe
from pipelines.run.commits import read_commit
from pipelines.run.folder import RunFolder
from pipelines.run.job import Run, open_run
from pipelines.run.ledger import read_part
from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from pipelines.run.plan import Plan, make_plan
from pipelines.run.provenance import RunInputs
from pipelines.run.record import read_run_record
from pipelines.run.state import read_run_state
from pipelines.run.status import stage_statuses
from pipelines.run.units import Units
from tests.support.fake_stages import results
from tests.support.paths import ROOT
from uniform.errors import ConfigError
from uniform.latents.batches.mixture import Mixture, SourceConfig
from uniform.latents.loader.loader import Loader, LoaderConfig
from uniform.latents.shards.index import open_index
from uniform.latents.shards.lint import problems_of

MADE = ROOT / "tests" / "data" / "made_by_0_3_0"


def copied(name: str, tmp_path: Path) -> Run:
    """A run of 0.3.0, copied, with its recipe and its clips."""
    shutil.copytree(MADE / name, tmp_path / name)
    return Run(
        folder=RunFolder(tmp_path / name),
        recipe=read_recipe(MADE / "recipe.toml"),
        roots={"avworld_w1": MADE / "clips"},
    )


def planned(run: Run) -> Plan:
    units = run.units()
    state = read_run_state(run.folder, run.recipe.names, len(units))
    return make_plan(state, RunInputs(run.recipe, units), run.recipe.steps)


def test_a_finished_run_is_complete_and_nothing_is_stale(tmp_path: Path) -> None:
    run = copied("finished", tmp_path)
    before = results(run.folder.path)

    plan = planned(run)
    result = run_pipeline(run, InlineBackend(), LogListener())

    assert [one.reasons for one in plan.stale] == []
    assert plan.finished
    assert (result.units_made, result.final.codes) == (0, {"not_media": 1, "ok": 5, "roundtrip_poor": 1, "silent": 1})
    assert results(run.folder.path) == before


def test_status_of_a_finished_run_counts_every_clip(tmp_path: Path) -> None:
    folder = copied("finished", tmp_path).folder
    record, units = read_run_record(folder), Units.read(folder)

    statuses = stage_statuses(folder, read_run_state(folder, record.stages, len(units)), units)

    assert [status.units_done for status in statuses] == [3] * 7
    assert statuses[0].tally.clips == 8
    assert statuses[-1].tally.kept == 5
    assert record.spec.name == "toy"


def test_shards_of_a_finished_run_are_sound_and_load(tmp_path: Path) -> None:
    folder = copied("finished", tmp_path).folder.path

    assert list(problems_of(folder)) == []
    assert len(open_index(folder)) == 5
    loader = Loader(Mixture([SourceConfig(folder=folder)], seed=0), LoaderConfig(global_batch=2))
    (batch,) = loader.read(0)
    assert len(batch.clip_ids) == 2


def test_a_begun_run_goes_on_to_the_bytes_of_the_finished_run(tmp_path: Path) -> None:
    run = copied("begun", tmp_path)

    result = run_pipeline(run, InlineBackend(), LogListener())

    assert (result.units_found, result.units_made) == (9, 12)
    found, wanted = results(run.folder.path), results(MADE / "finished")
    assert {name for name in wanted if found.get(name) != wanted[name]} == set()
    assert any(name.startswith("latents-") for name in wanted)


def test_run_json_of_a_run_that_goes_on_keeps_its_keys(tmp_path: Path) -> None:
    run = copied("finished", tmp_path)
    run.write(run.units())

    now, then = (json.loads((place / "run.json").read_bytes()) for place in (run.folder.path, MADE / "finished"))

    assert now.keys() == then.keys()
    assert {key for key in then if now[key] != then[key]} <= {"recipe_source", "roots"}


def test_a_recipe_that_has_moved_is_named(tmp_path: Path) -> None:
    run = copied("finished", tmp_path)

    with pytest.raises(ConfigError, match=r"recipe\.toml"):
        open_run(run.folder.path)


def test_the_old_drop_code_of_a_worker_crash_is_read(tmp_path: Path) -> None:
    folder = copied("finished", tmp_path).folder
    path = folder.commit("check", 0)
    values = json.loads(path.read_text())
    path.write_text(
        json.dumps({**values, "codes": {"kills_worker": 3}, "hours": {"2026-11-28T02": {"kills_worker": 3}}})
    )

    commit = read_commit(path)

    assert commit is not None
    assert (commit.codes, commit.tally.rejected) == ({"worker_crash": 3}, 3)
    assert commit.hours == {"2026-11-28T02": {"worker_crash": 3}}


def test_the_old_drop_code_in_a_ledger_is_read(tmp_path: Path) -> None:
    folder = copied("finished", tmp_path).folder
    path = folder.ledger("check", 0, 1)
    table = pq.read_table(path, partitioning=None)
    old = pa.array(["kills_worker"] * table.num_rows)
    pq.write_table(table.set_column(table.column_names.index("code"), "code", old), path)

    codes = read_part(path, ["clip_id", "code"])["code"].to_pylist()

    assert codes
    assert set(codes) == {"worker_crash"}
