"""Which job comes next: readiness by commits, later stages first, limits, barriers."""

import pytest

from pipelines.run.scheduler import Scheduler, StageRule
from pipelines.schedule import Schedule
from uniform.errors import ConfigError

STAGES = ("fetch", "clip", "encode")


def made(
    units: int = 4,
    schedule: Schedule | None = None,
    done: frozenset[tuple[str, int]] = frozenset(),
    barrier: str | None = None,
    caps: dict[str, int] | None = None,
) -> Scheduler:
    rules = [
        StageRule(name=name, scope="all" if name == barrier else "unit", max_workers=(caps or {}).get(name))
        for name in STAGES
    ]
    scheduler = Scheduler(rules, units, schedule or Schedule(), lambda stage, unit: (stage, unit) not in done)
    scheduler.start({unit: 0 for _, unit in done if ("encode", unit) not in done})
    return scheduler


def walk(scheduler: Scheduler, size_bytes: int = 0) -> list[tuple[str, int]]:
    """One job at a time until none is left."""
    order = []
    while (job := scheduler.take()) is not None:
        order.append(job)
        scheduler.commit(*job, size_bytes)
    return order


def test_one_worker_brings_each_unit_to_its_end_before_the_next_begins() -> None:
    scheduler = made(units=3)

    assert walk(scheduler) == [(stage, unit) for unit in range(3) for stage in STAGES]
    assert scheduler.finished


def test_later_stages_go_first_and_lower_units_first() -> None:
    scheduler = made(units=3)
    first, second = scheduler.take(), scheduler.take()
    assert (first, second) == (("fetch", 0), ("fetch", 1))
    scheduler.commit("fetch", 1, 0)
    scheduler.commit("fetch", 0, 0)

    assert [scheduler.take() for _ in range(3)] == [("clip", 0), ("clip", 1), ("fetch", 2)]


def test_a_job_is_ready_only_when_the_stage_before_has_committed_its_unit() -> None:
    scheduler = made(units=1)
    assert scheduler.take(["clip", "encode"]) is None
    assert scheduler.take(["fetch"]) == ("fetch", 0)
    assert scheduler.take() is None
    scheduler.commit("fetch", 0, 0)

    assert scheduler.take(["clip"]) == ("clip", 0)


def test_no_unit_begins_beyond_the_limit_of_units_in_flight() -> None:
    scheduler = made(units=9, schedule=Schedule(max_units_in_flight=2))
    jobs = [scheduler.take() for _ in range(4)]
    assert jobs == [("fetch", 0), ("fetch", 1), None, None]
    scheduler.commit("fetch", 0, 0)
    assert scheduler.ready() == {"fetch": 0, "clip": 1, "encode": 0}
    assert scheduler.take() == ("clip", 0)
    scheduler.commit("clip", 0, 0)
    assert scheduler.take() == ("encode", 0)
    scheduler.commit("encode", 0, 0)

    assert scheduler.take() == ("fetch", 2)
    assert scheduler.units_in_flight == 2


def test_without_a_limit_four_units_for_each_worker_are_in_flight() -> None:
    scheduler = made(units=100)
    assert scheduler.max_units_in_flight == 8
    scheduler.set_workers(5)

    assert scheduler.ready()["fetch"] == 20


def test_a_byte_limit_holds_units_back_but_never_all_of_them() -> None:
    scheduler = made(units=6, schedule=Schedule(max_intermediate_gb=2.5))
    for unit in range(3):
        assert scheduler.take(["fetch"]) == ("fetch", unit)
    for unit in range(3):
        scheduler.commit("fetch", unit, 10**9)
    assert scheduler.take(["fetch"]) is None
    for stage in ("clip", "encode"):
        assert scheduler.take() == (stage, 0)
        scheduler.commit(stage, 0, 0)
    assert scheduler.take(["fetch"]) is None  # 2 GB lie there, and another unit is about 1 GB
    for stage in ("clip", "encode"):
        assert scheduler.take() == (stage, 1)
        scheduler.commit(stage, 1, 0)

    assert scheduler.take(["fetch"]) == ("fetch", 3)


def test_a_unit_larger_than_the_byte_limit_is_done_alone() -> None:
    scheduler = made(units=3, schedule=Schedule(max_intermediate_gb=0.001))

    assert len(walk(scheduler, size_bytes=10**9)) == 9


def test_a_stage_has_no_more_jobs_at_once_than_its_cap() -> None:
    scheduler = made(units=5, caps={"fetch": 1})
    assert scheduler.take() == ("fetch", 0)
    assert scheduler.take() is None
    scheduler.commit("fetch", 0, 0)

    assert [scheduler.take(), scheduler.take()] == [("clip", 0), ("fetch", 1)]


def test_a_stage_that_needs_all_units_waits_for_all_of_them_whatever_the_limit() -> None:
    order = walk(made(units=4, barrier="encode", schedule=Schedule(max_units_in_flight=1)))

    assert order[:8] == [(stage, unit) for unit in range(4) for stage in ("fetch", "clip")]
    assert order[8:] == [("encode", unit) for unit in range(4)]


def test_a_barrier_at_the_first_stage_is_no_obstacle() -> None:
    assert len(walk(made(units=2, barrier="fetch"))) == 6


def test_what_an_earlier_run_has_done_is_not_done_again() -> None:
    done = frozenset({("fetch", 0), ("clip", 0), ("encode", 0), ("fetch", 2), ("encode", 1)})

    order = walk(made(units=3, done=done))

    assert order == [("clip", 2), ("encode", 2), ("fetch", 1), ("clip", 1)]


def test_a_job_without_a_result_is_handed_out_again() -> None:
    scheduler = made(units=2, schedule=Schedule(max_units_in_flight=1))
    assert scheduler.take() == ("fetch", 0)
    assert scheduler.take() is None
    scheduler.put_back("fetch", 0)

    assert scheduler.take() == ("fetch", 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_units_in_flight": 0}, "max_units_in_flight is 0; it must be 1 or more"),
        ({"max_intermediate_gb": 0.0}, "max_intermediate_gb is 0.0; it must be more than 0"),
        ({"max_workers": {"fetch": 0}}, "max_workers.fetch is 0; it must be 1 or more"),
        ({"stage_timeout_s": {"fetch": -1.0}}, "stage_timeout_s.fetch is -1.0"),
    ],
)
def test_limits_out_of_range_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schedule(**values)  # type: ignore[arg-type]
