"""Requests: one per sample, checked before any weights are loaded."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from uniform.config import nearest
from uniform.errors import InputError
from uniform.fingerprint import digest, file_sha256
from uniform.tasks import Task

MAX_PROMPT_CHARACTERS = 4_000
"""Longer prompts are cut here: the encoders keep 300 tokens, about 1,500 characters."""
MAX_NAME_BYTES = 200
"""File systems allow 255; suffixes and temporary names need the rest."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One sample to make."""

    name: str
    """File name of the results, without a suffix."""
    task: Task
    text: str | None = None
    """The caption; None samples without text (the null caption)."""
    media: Path | None = None
    """File of the conditioning modality: any file with audio for A2V, with video for V2A; None for T2AV."""
    start_ms: int = 0
    """Start of the conditioning clip inside `media`."""
    seed: int = 0
    """Seed of the noise. On one machine and with one batch size it determines every byte of the sample."""

    def check(self, *, with_array: bool = False) -> None:
        """Check the request. Raises: InputError that says what to change.

        Args:
            with_array: the conditioning modality of A2V or V2A is given as an array instead of a file.
        """
        if not self.name or self.name != Path(self.name).name or self.name.startswith("."):
            raise InputError(f"sample name {self.name!r} is not a plain file name; use letters, digits and '-'")
        if len(self.name.encode()) > MAX_NAME_BYTES:
            raise InputError(f"sample name '{self.name[:40]}...' is longer than {MAX_NAME_BYTES} bytes; shorten it")
        if self.text is not None and not self.text.strip():
            raise InputError(f"{self.name}: the prompt is empty. Write a caption, or leave it out")
        if self.task is Task.T2AV:
            self._check_t2av()
        elif self.media is None and with_array:
            pass
        elif self.media is None:
            kind = "an audio" if self.task is Task.A2V else "a video"
            raise InputError(f"{self.name}: {self.task} needs {kind} file; found none. Pass one.")
        elif not self.media.is_file():
            raise InputError(f"{self.name}: {self.media} is not a file. Check the path.")
        if self.start_ms < 0:
            raise InputError(f"{self.name}: the start is {self.start_ms} ms; it must be 0 or more")

    def _check_t2av(self) -> None:
        if self.media is not None:
            raise InputError(f"{self.name}: t2av takes no media file; found {self.media}. Use a2v or v2a.")
        if self.text is None:
            raise InputError(
                f"{self.name}: t2av needs a text; found none. Give one (on the command line --text or --prompts)."
            )

    def digest(self, sha256: Callable[[Path], str] = file_sha256) -> str:
        """Digest of the name and of everything that changes the sample, including the bytes of the media file."""
        fields: dict[str, Any] = {**asdict(self), "media": sha256(self.media) if self.media else None}
        return digest(fields)


def milliseconds(seconds: float) -> int:
    """Seconds to whole milliseconds. Raises: InputError for a negative or infinite time."""
    if not 0 <= seconds < float("inf"):
        raise InputError(f"the start is {seconds} s; it must be 0 or more")
    return round(1000 * seconds)


def numbered_requests(request: Request, count: int) -> list[Request]:
    """`count` requests that differ in name and seed: `<name>-000`, `<name>-001`, ..."""
    if count < 1:
        raise InputError(f"the number of samples is {count}; it must be 1 or more")
    return [
        replace(request, name=f"{request.name}-{number:03d}", seed=request.seed + number) for number in range(count)
    ]


def expand_requests(requests: Sequence[Request], *, prefix: str | None = None, count: int = 1) -> list[Request]:
    """Add `prefix` to the names and repeat each request `count` times (`numbered_requests`). Raises: InputError."""
    named = [replace(each, name=f"{prefix}-{each.name}") for each in requests] if prefix is not None else requests
    return [one for each in named for one in (numbered_requests(each, count) if count != 1 else [each])]


def read_prompts(path: Path, default: Request) -> list[Request]:
    """Requests from a file: one prompt per line (.txt), or one JSON object per line (.jsonl).

    JSON keys: text, task, media (relative to the file), start_ms, seed, name; absent keys come from `default`.
    Raises: InputError that names file, line and key.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error}). Check the file.") from error
    requests = [_from_line(path, number, line, default) for number, line in enumerate(lines, start=1) if line.strip()]
    return _require_distinct(path, requests)


def requests_from(path: Path, tables: Iterable[Mapping[str, Any]], default: Request) -> list[Request]:
    """Requests from tables with the keys of `read_prompts`; `path` names their origin in errors.

    Each sample's seed is the default's plus its number. Raises: InputError that names number and key.
    """
    requests = [
        _from_table(path, number, table, replace(default, seed=default.seed + number - 1))
        for number, table in enumerate(tables, start=1)
    ]
    return _require_distinct(path, requests)


def _from_line(path: Path, number: int, line: str, default: Request) -> Request:
    named = replace(default, name=f"{path.stem}-{number:06d}", seed=default.seed + number - 1)
    if path.suffix != ".jsonl":
        return replace(named, text=line.strip())
    try:
        values = json.loads(line)
        if not isinstance(values, Mapping):
            raise ValueError("not an object")
    except ValueError as error:
        raise InputError(f"{path}:{number}: not a JSON object ({error})") from error
    return _from_table(path, number, values, named)


def _from_table(path: Path, number: int, values: Mapping[str, Any], default: Request) -> Request:
    known = {"text": str, "task": str, "media": str, "start_ms": int, "seed": int, "name": str}
    for key, value in values.items():
        if key not in known:
            raise InputError(f"{path}:{number}: unknown key '{key}'{nearest(key, known)}")
        if not isinstance(value, known[key]) or isinstance(value, bool):
            raise InputError(f"{path}:{number}: '{key}' is {value!r}; wanted {known[key].__name__}")
    changes = dict(values)
    if "task" in changes:
        try:
            changes["task"] = task_by_name(changes["task"])
        except InputError as error:
            raise InputError(f"{path}:{number}: {error}") from error
    if "media" in changes:
        changes["media"] = path.parent / changes["media"]
    return replace(default, **changes)


def task_by_name(name: str) -> Task:
    """The task called `name`. Raises InputError that offers the nearest name."""
    known = [task.value for task in Task]
    if name not in known:
        raise InputError(f"there is no task '{name}'{nearest(name, known)}")
    return Task(name)


def _require_distinct(path: Path, requests: list[Request]) -> list[Request]:
    """Return `requests`. Raises: InputError where there is none, or two have the same name."""
    if not requests:
        raise InputError(f"{path}: holds no prompt. Write one per line.")
    names: set[str] = set()
    for request in requests:
        if request.name in names:
            raise InputError(f"{path}: two samples are called '{request.name}'; give each a name of its own")
        names.add(request.name)
    return requests
