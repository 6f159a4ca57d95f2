"""Sources on hubs and object stores, through fsspec: hf://, s3://, gs://, az://. Credentials come from the environment.

The drivers of each store are libraries of their own (s3fs, gcsfs, adlfs); huggingface_hub brings hf.
"""

from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pipelines.clip import Row
from pipelines.fetching.base import Fetched, FetchError
from pipelines.fetching.messages import clean_reason, code_of_message, code_of_status
from pipelines.fetching.pace import Pace
from pipelines.fetching.store import Made, MediaStore

CHUNK_BYTES = 1 << 20
DRIVERS = {"s3": "s3fs", "r2": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


class RemoteFetcher:
    """Copies files of object stores and hubs into a store.

    Args:
        store: receives the files.
        pace: asked once for each file, under the bucket's name, or "huggingface.co".
        largest_bytes: of one file.
    """

    def __init__(self, store: MediaStore, pace: Pace, largest_bytes: int) -> None:
        self._store, self._pace, self._largest = store, pace, largest_bytes

    def fetch(self, row: Row) -> Fetched:
        """The row's source. Raises FetchError with a code."""
        key = self._store.key("remote", "", row.source_uri)
        return self._store.once(key, lambda work: self._get(row.source_uri, work))

    def _get(self, uri: str, work: Path) -> Made:
        parts = urlsplit(uri)
        host = "huggingface.co" if parts.scheme == "hf" else parts.netloc
        self._pace.take(host)
        target = work / "remote"
        try:
            self._copy(uri, parts.scheme, target)
        except FetchError as error:
            self._pace.report(host, error.reason if error.code == "http_429" else None)
            raise
        self._pace.report(host, None)
        return Made(target, PurePosixPath(parts.path).suffix.lower() or ".mp4", {"uri": clean_reason(uri)})

    def _copy(self, uri: str, scheme: str, target: Path) -> None:
        import fsspec

        try:
            with fsspec.open(uri, "rb") as source, target.open("wb") as file:
                while chunk := source.read(CHUNK_BYTES):
                    file.write(chunk)
                    if file.tell() > self._largest:
                        raise FetchError("too_large", f"more than {self._largest:,} bytes")
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
