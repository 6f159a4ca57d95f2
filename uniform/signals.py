"""Signal handling: the first SIGTERM or SIGINT calls a function, the second one has its usual effect."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def on_stop_signal(call: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Inside the block, call `call(number)` at the first SIGTERM or SIGINT; a second one ends the process as usual.

    Outside the main thread, which alone can handle signals, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore(number: signal.Signals) -> None:
        handler = previous[number]  # None: not installed from Python, so it cannot be set again
        signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def handle(number: int, _: object) -> None:
        restore(signal.Signals(number))
        call(signal.Signals(number))

    for number in previous:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in previous:
            restore(number)
