import threading

import pytest

from pipelines.stage_support.prefetch import Wait, prefetched


@pytest.mark.parametrize("ahead", [0, 1, 5])
@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_the_order_of_their_items(ahead: int, threads: int) -> None:
    assert list(prefetched(lambda n: n * n, range(20), ahead=ahead, threads=threads)) == [n * n for n in range(20)]


def test_an_error_is_raised_where_its_result_is_taken() -> None:
    results = prefetched(lambda n: 1 // n, [2, 1, 0, 3], ahead=3, threads=2)

    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_at_most_the_bound_of_items_is_in_work() -> None:
    begun: list[int] = []
    results = prefetched(lambda n: begun.append(n), range(100), ahead=3, threads=1)

    next(results)

    assert len(begun) <= 4
    results.close()


def test_threads_end_with_the_consumer() -> None:
    results = prefetched(lambda n: n, range(100), ahead=3, threads=2)
    next(results)
    results.close()

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_the_time_spent_waiting_is_measured() -> None:
    gate, wait = threading.Event(), Wait()
    timer = threading.Timer(0.05, gate.set)
    timer.start()

    assert list(prefetched(lambda _: gate.wait(), [0], ahead=1, threads=1, wait=wait)) == [True]
    assert wait.seconds > 0
