"""Sources on hubs and object stores, through fsspec: hf://, s3://, gs://, az://. Credentials come from the environment.

The drivers of each store are libraries of their own (s3fs, gcsfs, adlfs); huggingface_hub brings hf.
"""

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.clip import Row
from pipelines.fetching.base import Fetched, FetchError
from pipelines.fetching.messages import clean_reason, code_of_message, code_of_status
from pipelines.fetching.rate_limit import RateLimiter
from pipelines.fetching.stall_guard import ThroughputMonitor
from pipelines.fetching.store import Made, MediaStore, kept_suffix

CHUNK_BYTES = 1 << 22
"""Also the size of a driver's requests: with larger ones, up to 50 MB, throughput could not be measured."""
DRIVERS = {"s3": "s3fs", "r2": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


class RemoteFetcher:
    """Copies files of object stores and hubs into a store.

    Args:
        store: receives the files.
        rate_limiter: one turn per file, under the bucket's name, or "huggingface.co".
        largest_bytes: of one file.
        slowest_bytes_per_s, window_s: mean over a window; a slower transfer is given up.
        clock: for tests.
    """

    def __init__(
        self,
        store: MediaStore,
        rate_limiter: RateLimiter,
        largest_bytes: int,
        slowest_bytes_per_s: float = 2_000.0,
        window_s: float = 60.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._rate_limiter, self._largest = store, rate_limiter, largest_bytes
        self._slowest, self._window_s, self._clock = slowest_bytes_per_s, window_s, clock

    def fetch(self, row: Row) -> Fetched:
        """The row's source. Raises FetchError with a code."""
        key = self._store.key("remote", "", row.source_uri)
        return self._store.once(key, lambda work: self._get(row.source_uri, work))

    def _get(self, uri: str, work: Path) -> Made:
        parts = urlsplit(uri)
        host = "huggingface.co" if parts.scheme == "hf" else parts.netloc
        self._rate_limiter.take(host)
        target = work / "remote"
        try:
            self._copy(uri, parts.scheme, target)
        except FetchError as error:
            self._rate_limiter.report(host, error.reason if error.code == "http_429" else None)
            raise
        self._rate_limiter.report(host, None)
        return Made(target, kept_suffix(parts.path), {"uri": clean_reason(uri)})

    def _copy(self, uri: str, scheme: str, target: Path) -> None:
        import fsspec

        try:
            system, path = fsspec.core.url_to_fs(uri)
            size, meter = 0, ThroughputMonitor(self._slowest, self._window_s, clock=self._clock)
            with system.open(path, "rb", block_size=CHUNK_BYTES) as source, target.open("wb") as file:
                while chunk := source.read(CHUNK_BYTES):
                    file.write(chunk)
                    size += len(chunk)
                    if size > self._largest:
                        raise FetchError("too_large", f"more than {self._largest:,} bytes")
                    meter.judge(size)
        except FetchError:
            raise
        except ImportError as error:
            driver = DRIVERS.get(scheme, scheme)
            raise FetchError("no_driver", f"{scheme}:// needs a library: pip install {driver}") from error
        except FileNotFoundError as error:
            raise FetchError("http_404", f"no such file: {clean_reason(uri)}") from error
        except PermissionError as error:
            raise FetchError("http_403", clean_reason(str(error))) from error
        except Exception as error:  # each driver has errors of its own, and none of them may cross processes
            raise _as_fetch_error(error) from None
        if target.stat().st_size == 0:
            raise FetchError("empty_file", "the file is empty")


def _as_fetch_error(error: Exception) -> FetchError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    code = code_of_status(status) if isinstance(status, int) and status >= 400 else code_of_message(str(error))
    return FetchError(code, clean_reason(f"{type(error).__name__}: {error}"))
