"""Hosts are asked within their rate limit, cool down after refusals, and are not asked at all after many."""

import contextlib
import json
import multiprocessing
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.fetching.base import FetchError
from pipelines.fetching.host_state import FileHostStates, HostStatesServer
from pipelines.fetching.rate_limit import HostRateLimiter, HostState, learn, reserve
from pipelines.hosts import DAY_S, HostPolicy
from uniform.errors import ConfigError

NOON = 1_750_000_000.0
HOUR = HostPolicy(requests_per_hour=360.0, burst=3, max_wait_s=1e9)  # one each 10 s


@given(
    gaps_s=st.lists(st.floats(0, 60), min_size=2, max_size=60),
    chances=st.lists(st.floats(0, 1), min_size=60, max_size=60),
    burst=st.integers(1, 5),
)
def test_no_span_of_time_holds_more_requests_than_the_bucket(
    gaps_s: list[float], chances: list[float], burst: int
) -> None:
    policy = HostPolicy(requests_per_hour=360.0, burst=burst, max_wait_s=1e9)
    state, now, starts = HostState(), NOON, []
    for gap_s, chance in zip(gaps_s, chances, strict=False):
        now += gap_s
        starts.append(now + reserve(state, policy, "h", now, chance))

    assert starts == sorted(starts)
    for first in range(len(starts)):
        for last in range(first, len(starts)):
            assert last - first + 1 <= burst + (starts[last] - starts[first]) / policy.interval_s + 1e-6


def _take(folder: str, times: int, answers: "multiprocessing.Queue[float]") -> None:
    policy = HostPolicy(requests_per_hour=360.0, burst=1, jitter=0.0, max_wait_s=1e9)
    rate_limiter = HostRateLimiter(FileHostStates(Path(folder), clock=lambda: NOON), policy, sleep=answers.put)
    for _ in range(times):
        rate_limiter.take("h.example")


def test_workers_share_one_bucket(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[float] = context.Queue()
    workers = [context.Process(target=_take, args=(str(tmp_path), 10, answers)) for _ in range(3)]
    for worker in workers:
        worker.start()
    waits = sorted(answers.get(timeout=30) for _ in range(29))  # the first of all has nothing to wait for
    for worker in workers:
        worker.join()

    assert waits == pytest.approx([10.0 * n for n in range(1, 30)])


def test_chance_makes_requests_rarer_and_never_denser() -> None:
    policy = HostPolicy(requests_per_hour=360.0, burst=1, jitter=0.5, max_wait_s=1e9)
    state, chances = HostState(), (0.0, 1.0, 0.4, 0.0, 0.0)
    waits = [reserve(state, policy, "h", NOON, chance) for chance in chances]

    assert waits == pytest.approx([0.0, 10.0, 25.0, 37.0, 47.0])


def test_two_workers_do_not_draw_the_same_chances(tmp_path: Path) -> None:
    slow = HostPolicy(requests_per_hour=360.0, burst=1, jitter=1.0, max_wait_s=1e9)
    waits: list[list[float]] = [[], []]
    for folder, slept in zip(("a", "b"), waits, strict=True):
        rate_limiter = HostRateLimiter(FileHostStates(tmp_path / folder, clock=lambda: NOON), slow, sleep=slept.append)
        for _ in range(4):
            rate_limiter.take("h.example")

    assert waits[0] != waits[1]


def test_a_long_rest_puts_the_clip_back_and_takes_nothing() -> None:
    policy = HostPolicy(requests_per_hour=360.0, burst=1, jitter=0.0, max_wait_s=15.0)
    state = HostState(blocked_until=NOON + 20, reason="HTTP 429")
    for _ in range(3):
        with pytest.raises(FetchError, match=r"host_paused: h cools down until .*: HTTP 429"):
            reserve(state, policy, "h", NOON, 0.0)

    assert reserve(state, policy, "h", NOON + 6, 0.0) == pytest.approx(14.0)


def test_a_turn_is_waited_for_however_many_wait() -> None:
    policy = HostPolicy(requests_per_hour=360.0, burst=1, jitter=0.0, max_wait_s=15.0)
    state = HostState()

    assert [reserve(state, policy, "h", NOON, 0.0) for _ in range(5)] == [0.0, 10.0, 20.0, 30.0, 40.0]


def test_who_waited_waits_again_where_the_host_refused_somebody_meanwhile(tmp_path: Path) -> None:
    now, slept = [NOON], []
    policy = HostPolicy(requests_per_hour=360.0, burst=1, jitter=0.0)
    rate_limiter = HostRateLimiter(
        FileHostStates(tmp_path, clock=lambda: now[0]), policy, sleep=lambda wait_s: sleep(wait_s)
    )

    def sleep(wait_s: float) -> None:
        slept.append(wait_s)
        now[0] += wait_s
        if len(slept) == 1:
            rate_limiter.report("h.example", "HTTP 429", 30.0)

    rate_limiter.take("h.example")
    rate_limiter.take("h.example")

    assert slept == [10.0, 30.0]


def test_a_refusal_makes_the_host_rest_as_long_as_it_says() -> None:
    state = HostState()
    learn(state, HOUR, "HTTP 429", 77.0, NOON)

    assert reserve(state, HOUR, "h", NOON, 0.0) == pytest.approx(77.0)


def test_refusals_without_a_word_double_the_rest() -> None:
    state = HostState()
    is_cooling_down = []
    for _ in range(4):
        learn(state, HOUR, "HTTP 503", None, NOON)
        is_cooling_down.append(state.blocked_until - NOON)

    assert is_cooling_down == [10.0, 20.0, 40.0, 80.0]


def test_the_breaker_opens_after_a_row_of_refusals_and_longer_each_time() -> None:
    policy = HostPolicy(breaker_refusals=3, breaker_pause_s=3600.0, backoff_s=1.0)
    state, now, pauses = HostState(), NOON, []
    for _ in range(7):
        opened = [learn(state, policy, "sign in", None, now) for _ in range(3)]
        assert opened == [False, False, True]
        pauses.append(state.blocked_until - now)
        now = state.blocked_until

    assert pauses == [3600.0, 7200.0, 14400.0, 28800.0, 57600.0, DAY_S, DAY_S]


def test_one_good_answer_closes_the_breaker() -> None:
    policy = HostPolicy(breaker_refusals=3)
    state = HostState()
    for refusal in ("a", "b", None, "c", "d"):
        assert not learn(state, policy, refusal, 0.0, NOON)


def test_a_daily_budget_ends_and_comes_back() -> None:
    policy = HostPolicy(requests_per_hour=3.6e6, burst=10, daily_requests=2)
    state = HostState()
    reserve(state, policy, "h", NOON, 0.0)
    reserve(state, policy, "h", NOON, 0.0)
    with pytest.raises(FetchError, match="daily_budget: h: 2 requests are used up; again from"):
        reserve(state, policy, "h", NOON, 0.0)

    reserve(state, policy, "h", NOON + DAY_S, 0.0)


@pytest.mark.parametrize(
    ("hours", "time", "quiet"),
    [
        ("08:00-18:00", "07:59", False),
        ("08:00-18:00", "08:00", True),
        ("08:00-18:00", "18:00", False),
        ("22:00-06:00", "23:30", True),
        ("22:00-06:00", "05:59", True),
        ("22:00-06:00", "12:00", False),
    ],
)
def test_quiet_hours_are_kept_also_over_midnight(
    hours: str, time: str, quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.fetching.rate_limit.time.strftime", lambda layout, moment=None: time)
    policy = HostPolicy(quiet_hours=hours)
    if quiet:
        with pytest.raises(FetchError, match="quiet_hours"):
            reserve(HostState(), policy, "h", NOON, 0.0)
    else:
        assert reserve(HostState(), policy, "h", NOON, 0.0) == 0.0


def test_no_turn_that_is_waited_for_comes_in_quiet_hours() -> None:
    before = time.mktime((2025, 6, 16, 7, 59, 0, 0, 0, -1))
    policy = HostPolicy(requests_per_hour=250.0, burst=1, quiet_hours="08:00-18:00", max_wait_s=1e9)
    state, waits = HostState(), []
    for _ in range(64):
        with contextlib.suppress(FetchError):
            waits.append(reserve(state, policy, "h", before, 0.0))

    assert len(waits) == 5
    assert max(waits) < 60
    assert state.used_today == 5


def test_a_policy_holds_for_the_subdomains_of_its_host(tmp_path: Path) -> None:
    waits: list[float] = []
    slow = HostPolicy(requests_per_hour=60.0, burst=1, jitter=0.0, max_wait_s=1e9)
    rate_limiter = HostRateLimiter(
        FileHostStates(tmp_path, clock=lambda: NOON), HostPolicy(burst=99), {"youtube.com": slow}, sleep=waits.append
    )
    for host in ("www.youtube.com", "m.YouTube.com", "youtube.com.", "notyoutube.com"):
        rate_limiter.take(host)

    assert waits == [60.0, 120.0]


def test_states_outlive_the_run_and_a_torn_page_does_not_stop_it(tmp_path: Path) -> None:
    HostRateLimiter(FileHostStates(tmp_path, clock=lambda: NOON), HOUR).report("h.example", "HTTP 429", 50.0)
    (page,) = tmp_path.glob("*.json")
    assert json.loads(page.read_text())["blocked_until"] == NOON + 50
    page.write_text('{"host": "h.exa')

    HostRateLimiter(
        FileHostStates(tmp_path, clock=lambda: NOON), HOUR, sleep=lambda _: pytest.fail("no page, no wait")
    ).take("h.example")


def test_a_page_with_a_long_foreign_reason_is_still_read_after_a_short_one(tmp_path: Path) -> None:
    states, host = FileHostStates(tmp_path, clock=lambda: NOON), "h" * 253
    for reason in ("\u0001" * 999, "混" * 999, "short"):
        states.learn(host, HOUR, reason, 50.0)

    assert states.is_cooling_down(host)


def test_an_older_page_without_the_newest_fields_still_counts(tmp_path: Path) -> None:
    FileHostStates(tmp_path, clock=lambda: NOON).learn("h.example", HOUR, "HTTP 429", 50.0)
    (page,) = tmp_path.glob("*.json")
    found = json.loads(page.read_text())
    del found["learned_at"]
    page.write_text(json.dumps(found))

    assert FileHostStates(tmp_path, clock=lambda: NOON).is_cooling_down("h.example")


def test_two_states_of_one_host_merge_and_the_stricter_holds() -> None:
    ours = HostState(free_at=NOON, blocked_until=NOON + 9, refusals=4, day=7, used_today=9, learned_at=NOON)
    theirs = HostState(free_at=NOON + 5, blocked_until=NOON, day=8, used_today=1, learned_at=NOON + 1)
    ours.merge(theirs)

    assert ours == HostState(
        free_at=NOON + 5, blocked_until=NOON + 9, refusals=0, day=8, used_today=1, learned_at=NOON + 1
    )


def test_one_server_holds_runs_with_folders_of_their_own_to_one_bucket(tmp_path: Path) -> None:
    server, policy = HostStatesServer(), HostPolicy(requests_per_hour=1.0, burst=1, jitter=0.0, daily_requests=3)
    answers = [server.ask(tmp_path / run, "reserve", "h.example", policy, 0.0) for run in ("a", "b", "a", "b")]

    assert answers[:3] == pytest.approx([0.0, 3_600.0, 7_200.0], abs=60)
    assert isinstance(answers[3], FetchError)
    assert answers[3].code == "daily_budget"


@pytest.mark.parametrize(
    "options",
    [{"requests_per_hour": 0.0}, {"burst": 0}, {"quiet_hours": "8-18"}, {"jitter": -1.0}, {"max_wait_s": -1.0}],
)
def test_a_senseless_policy_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        HostPolicy(**options)  # type: ignore[arg-type]


TEN_YEARS_S = 3_650.0 * DAY_S


@pytest.mark.parametrize("by_version_0_3_0", [False, True])
def test_a_clock_that_was_wrong_once_does_not_stop_a_host(tmp_path: Path, by_version_0_3_0: bool) -> None:
    wrong = FileHostStates(tmp_path, clock=lambda: NOON + TEN_YEARS_S)
    for _ in range(3):
        wrong.reserve("a.example", HOUR, 0.0)
        wrong.learn("b.example", HOUR, "HTTP 429", 50.0)
        wrong.reserve("c.example", HostPolicy(daily_requests=3), 0.0)
    if by_version_0_3_0:
        for file in tmp_path.glob("*.json"):
            found = json.loads(file.read_text())
            del found["written_at"]
            file.write_text(json.dumps(found))
    right = FileHostStates(tmp_path, clock=lambda: NOON)

    assert right.reserve("a.example", HOUR, 0.0) <= 30.0
    assert right.reserve("b.example", HOUR, 0.0) <= 50.0
    assert right.reserve("c.example", HostPolicy(daily_requests=3), 0.0) <= 10.0


def test_a_server_with_a_wrong_state_in_memory_does_not_stop_a_host(tmp_path: Path) -> None:
    known: dict[str, HostState] = {}
    FileHostStates(tmp_path / "a", known=known, clock=lambda: NOON + TEN_YEARS_S).learn("h", HOUR, "HTTP 429", 50.0)

    assert FileHostStates(tmp_path / "b", known=known, clock=lambda: NOON).reserve("h", HOUR, 0.0) <= 50.0


@pytest.mark.parametrize(
    "content",
    [
        b'{"blocked_until": 1e999}',
        b'{"blocked_until": NaN, "free_at": Infinity}',
        b'{"blocked_until": "soon", "refusals": [], "day": {}, "reason": 7}',
        b'{"blocked_until": 1e300, "free_at": 1e300, "learned_at": -1, "pauses": 1e300, "refusals": true}',
        b'{"refusals": -5, "used_today": 99999999999999999999999, "day": 99999999999999999999999}',
        b"[" * 100_000,
        b'{"reason": "\\ud83d"}',
        b"[]",
        b"\xff\xfe",
    ],
)
def test_no_content_of_a_file_stops_a_host(tmp_path: Path, content: bytes) -> None:
    states = FileHostStates(tmp_path, clock=lambda: NOON)
    states.learn("h.example", HOUR, None, None)
    (file,) = tmp_path.glob("*.json")
    file.write_bytes(content)
    policy = HostPolicy(max_wait_s=2 * DAY_S, daily_requests=5)

    assert states.reserve("h.example", policy, 0.0) <= DAY_S
    states.learn("h.example", policy, "\ud83d", None)
    assert states.reserve("h.example", policy, 0.0) <= DAY_S
