"""Pilots: the sample is proportional, its results are kept, and its intervals cover the actual figures."""

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from pipelines.estimate.comparison import compare_with_prediction
from pipelines.estimate.costs import busy_s, stage_costs
from pipelines.estimate.pilot import UNITS_OF_EACH_SIZE, run_pilot
from pipelines.estimate.prediction import Estimate, predict_share, predict_sum, read_prediction
from pipelines.estimate.rate_limited_time import slowest_host
from pipelines.estimate.sample import draw, strata
from pipelines.hosts import HostPolicy
from pipelines.manifest.table import table_of
from pipelines.run.folder import RunFolder
from pipelines.run.job import Run, make_run, open_run
from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from pipelines.run.units import Units
from pipelines.stages.fetch_media import Stage as FetchStage
from tests.support.fake_stages import Cut, fake_run, recipe, results, rows
from uniform.errors import PipelineError


def pilot(run: Run, clips: int = 40) -> None:
    run_pilot(run, clips, InlineBackend(), LogListener())


def covers(estimate: Estimate, actual: float) -> bool:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low <= actual <= estimate.high


def test_sample_holds_each_dataset_split_and_host_in_proportion() -> None:
    web = [replace(row, source_kind="http", source_uri=f"https://a.org/{row.clip_id}") for row in rows(400, "web")]
    clips = table_of([*rows(100), *web])

    sample, left_out = draw(clips, 100)

    stratum_of = {clip_id: stratum for stratum, ids in strata(clips).items() for clip_id in ids}
    assert Counter(stratum_of[clip_id] for clip_id in sample) == {
        ("fake", "train", "local"): 15,
        ("fake", "test", "local"): 5,
        ("web", "train", "a.org"): 60,
        ("web", "test", "a.org"): 20,
    }
    assert left_out == []
    assert draw(clips.take(list(reversed(range(clips.num_rows)))), 100)[0] == sample


def test_a_stratum_too_small_for_the_sample_is_named() -> None:
    clips = table_of([*rows(200), *rows(1, "rare")])

    assert draw(clips, 10)[1] == [("rare", "test", "local")]


def test_the_run_does_not_repeat_the_units_of_its_pilot(tmp_path: Path) -> None:
    pilot(fake_run(tmp_path, 200, recipe(unit_clips=32)))
    sampled = Units.read(RunFolder(tmp_path))
    before = results(tmp_path)

    result = run_pipeline(fake_run(tmp_path, 200, recipe(unit_clips=32)), InlineBackend(), LogListener())

    assert [len(sampled.ids(unit)) for unit in range(len(sampled))] == [2] * UNITS_OF_EACH_SIZE + [
        8
    ] * UNITS_OF_EACH_SIZE
    assert result.units_found == 2 * UNITS_OF_EACH_SIZE * 5
    assert result.final.clips == 200
    after = results(tmp_path)
    assert all(after[name] == content for name, content in before.items() if name.endswith(".tar"))


def test_a_finished_run_is_compared_with_the_prediction_of_its_pilot(tmp_path: Path) -> None:
    made = recipe(unit_clips=32, cut=Cut(size=30_000))  # large against the padding at the end of every tar
    pilot(fake_run(tmp_path, 300, made), 100)
    prediction = read_prediction(RunFolder(tmp_path))
    unfinished = compare_with_prediction(RunFolder(tmp_path), made.names, Units.read(RunFolder(tmp_path)))
    run_pipeline(fake_run(tmp_path, 300, made), InlineBackend(), LogListener())

    found = compare_with_prediction(RunFolder(tmp_path), made.names, Units.read(RunFolder(tmp_path)))

    assert prediction is not None
    assert (prediction.clips, prediction.sources, prediction.sample_clips) == (300, 300, 100)
    assert unfinished is not None
    assert not unfinished.done
    assert found is not None
    assert found.prediction == prediction
    assert found.done
    assert found.same_manifest
    assert len(found.stages) == 5
    for stage in found.stages:
        assert covers(stage.predicted.kept, stage.actual.kept), stage.predicted.stage
    tars = found.stages[0]
    assert covers(tars.predicted.bytes, tars.actual.bytes)


def test_a_comparison_with_a_longer_manifest_says_so(tmp_path: Path) -> None:
    made = recipe()
    pilot(fake_run(tmp_path, 60, made), 20)
    run_pipeline(fake_run(tmp_path, 70, made), InlineBackend(), LogListener())

    found = compare_with_prediction(RunFolder(tmp_path), made.names, Units.read(RunFolder(tmp_path)))

    assert found is not None
    assert not found.same_manifest


def test_a_pilot_can_draw_more_clips_until_the_whole_run_begins(tmp_path: Path) -> None:
    pilot(fake_run(tmp_path, 100), 20)
    pilot(fake_run(tmp_path, 100), 30)
    prediction = read_prediction(RunFolder(tmp_path))
    run_pipeline(fake_run(tmp_path, 100), InlineBackend(), LogListener())

    assert prediction is not None
    assert prediction.sample_clips == 30
    with pytest.raises(PipelineError, match="the full run has begun here"):
        pilot(fake_run(tmp_path, 100), 40)


def test_a_pilot_of_every_clip_has_intervals_of_zero_width(tmp_path: Path) -> None:
    pilot(fake_run(tmp_path, 30), 200)

    prediction = read_prediction(RunFolder(tmp_path))

    assert prediction is not None
    assert len(prediction.stages) == 5
    for stage in prediction.stages:
        assert stage.kept.low == stage.kept.value == stage.kept.high
        assert stage.bytes.low == stage.bytes.high


def test_a_pilot_needs_manifests(tmp_path: Path) -> None:
    pilot(fake_run(tmp_path, 30), 10)

    with pytest.raises(PipelineError, match="needs the manifests of the run"):
        pilot(open_run(tmp_path, "toy"), 10)


def test_a_prediction_of_the_older_format_is_read(tmp_path: Path) -> None:
    pilot(fake_run(tmp_path, 30), 10)
    path = tmp_path / "prediction.json"
    content = json.loads(path.read_text())
    for stage in content["stages"]:
        stage["paced_host"] = stage.pop("slowest_host")
    content["stages"][0]["paced_host"] = "a.org"
    path.write_text(json.dumps({**content, "format": 1}))

    prediction = read_prediction(RunFolder(tmp_path))

    assert prediction is not None
    assert [stage.slowest_host for stage in prediction.stages] == ["a.org", "", "", "", ""]


def test_a_prediction_of_a_newer_format_is_refused_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "prediction.json").write_text(json.dumps({"format": 3}))

    with pytest.raises(PipelineError, match="format 3; this version reads 1 to 2"):
        read_prediction(RunFolder(tmp_path))


def test_a_damaged_prediction_is_named(tmp_path: Path) -> None:
    (tmp_path / "prediction.json").write_text(json.dumps({"format": 1, "clips": 3}))

    with pytest.raises(PipelineError, match=r"prediction\.json: not a prediction"):
        read_prediction(RunFolder(tmp_path))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.84])
def test_wilsons_interval_holds_the_whole_in_95_percent_of_cases(share: float) -> None:
    draws = random.Random(5)
    whole, trials, held = 1_000, 200, 0
    for _ in range(600):
        successes = [draws.random() < share for _ in range(whole)]
        estimate = predict_share(sum(successes[:trials]), trials, whole)
        held += covers(estimate, sum(successes))

    # Coverage below 95% by more than chance means a wrong formula.
    assert stats.binomtest(held, 600, 0.95).pvalue > 1e-3 or held / 600 > 0.95


def test_students_interval_holds_sums_of_unequal_units_in_95_percent_of_cases() -> None:
    draws = random.Random(6)
    held = 0
    for _ in range(600):
        sizes = [10] * 4 + [40] * 4 + [200] * 10
        # A fixed cost per unit, and a cost per clip that varies between units, less so in larger ones.
        amounts = [25.0 + size * 2.0 + draws.gauss(0, 1.0) * size**0.5 for size in sizes]
        estimate = predict_sum(amounts[:8], sizes[:8], sum(sizes), 10)
        held += covers(estimate, sum(amounts))

    assert 0.92 < held / 600 < 0.98


def test_the_fixed_cost_of_a_unit_is_separated_from_the_cost_per_clip() -> None:
    estimate = predict_sum([25.0 + 2 * size for size in (5, 5, 20, 20)], [5, 5, 20, 20], 1_050, 1)

    assert estimate.value == pytest.approx(4 * 25 + 2 * 50 + 25 + 2 * 1_000)


def test_units_of_one_size_give_a_ratio_and_its_interval() -> None:
    estimate = predict_sum([9.0, 10.0, 11.0], [5, 5, 5], 115, 20)

    assert estimate.value == pytest.approx(230.0)
    assert estimate.low is not None
    assert estimate.low < 230 < (estimate.high or 0)


def test_one_unit_gives_no_interval_for_a_sum() -> None:
    estimate = predict_sum([30.0], [10], 100, 9)

    assert (estimate.value, estimate.low, estimate.high) == (300.0, None, None)


def test_busy_time_leaves_out_pauses_between_runs() -> None:
    assert busy_s([(0, 10), (5, 12), (1_000, 1_003)]) == 15


def test_fetch_time_is_that_of_the_slowest_host() -> None:
    stage = FetchStage(
        rate_limit=HostPolicy(requests_per_hour=3_600, burst=1, jitter=0.0),
        hosts={"youtube.com": HostPolicy(requests_per_hour=250, burst=1, jitter=0.2)},
    )
    tube = [("youtube", f"https://www.youtube.com/watch?v={number}") for number in range(251)]
    other = [("http", f"https://media.example.org/{number}.mp4") for number in range(1_001)]

    assert slowest_host(stage, [*tube, *other]) == ("youtube.com", pytest.approx(250 * 14.4 * 1.1))
    assert slowest_host(stage, other) == ("media.example.org", pytest.approx(1_000))
    assert slowest_host(stage, [("local", "a.mp4")]) == ("", 0.0)


@pytest.mark.parametrize(
    ("policy", "days"),
    [
        (HostPolicy(requests_per_hour=3_600, jitter=0.0, daily_requests=1_000), 10),
        (HostPolicy(requests_per_hour=100, jitter=0.0, quiet_hours="08:00-18:00"), 10_000 / 1_400),
        (HostPolicy(requests_per_hour=100, jitter=0.0, quiet_hours="22:00-06:00"), 10_000 / 1_600),
    ],
)
def test_daily_limits_and_quiet_hours_lengthen_the_fetch_time(policy: HostPolicy, days: float) -> None:
    sources = [("http", f"https://a.org/{number}") for number in range(10_000)]

    assert slowest_host(FetchStage(rate_limit=policy), sources) == ("a.org", pytest.approx(86_400 * days))


def test_a_retried_clip_counts_once(tmp_path: Path) -> None:
    from pipelines.run.retry import plan_again

    made = recipe(cut=Cut(fail_if_missing=str(tmp_path / "there")))
    out = tmp_path / "run"
    run_pipeline(make_run(rows(40), made, out), InlineBackend(), LogListener())
    (tmp_path / "there").touch()
    plan_again(RunFolder(out), "missing_source", 6)
    run_pipeline(make_run(rows(40), made, out), InlineBackend(), LogListener())

    cost = stage_costs(RunFolder(out), made.names, Units.read(RunFolder(out)))[0]

    assert sum(unit.planned for unit in cost.units) == 40
    assert sum(unit.sources for unit in cost.units) == 40
