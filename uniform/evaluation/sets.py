"""The two sides of an evaluation: folders of files or lists of clips, checked, and joined by clip_id.

A list is Parquet, JSON lines or CSV with the columns clip_id and path, and perhaps sample, start_ms, task, text, label.
Nothing is ever left out or repeated to reach a number: what does not fit is an error with counts and names.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from uniform.errors import InputError

VIDEO_SUFFIXES = (
    ".mp4",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".ts",
    ".3gp",
    ".ogv",
    ".flv",
    ".gif",
)
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".aac", ".aiff")
LIST_SUFFIXES = (".parquet", ".jsonl", ".csv")
COLUMNS = ("clip_id", "path", "sample", "start_ms", "task", "text", "label")
MAX_CLIPS = 1_000_000
MAX_ID_CHARACTERS = 400
MAX_TEXT_CHARACTERS = 10_000
NAMED = 5
"""Names that an error lists."""
CACHE_NAME = ".uniform-features"


@dataclass(frozen=True, kw_only=True)
class ClipFile:
    """One clip of a set, as a file."""

    clip_id: str
    path: Path
    sample: int = 0
    """Which of several samples of one clip."""
    start_ms: int = 0
    task: str = ""
    text: str = ""
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class ClipSet:
    """One side."""

    name: str
    """For messages: "generated", "real"."""
    place: Path
    """The folder or list."""
    clips: tuple[ClipFile, ...]
    """Ascending by clip_id, then sample."""

    @property
    def cache(self) -> Path:
        """Where features of this set are kept: beside it."""
        return (
            self.place / CACHE_NAME if self.place.is_dir() else self.place.with_name(f"{self.place.name}{CACHE_NAME}")
        )

    @property
    def clip_ids(self) -> tuple[str, ...]:
        """Each once, ascending."""
        return tuple(dict.fromkeys(clip.clip_id for clip in self.clips))


def read_set(place: Path, name: str, *, root: Path | None = None, audio_only: bool = False) -> ClipSet:
    """The clips of a folder or of a list.

    Args:
        place: a folder of media files (clip_id is the file's name without its suffix), or a list.
        name: for messages.
        root: folder that the paths of a list may lie in; None is the list's own folder.
        audio_only: files without video will do, so a folder's audio files count too where no video has their name.
    Raises: InputError for a place that is not there or empty, an unreadable list, a column that is missing, a clip that
        stands twice, a path outside the folder, with counts and the first five names.
    """
    if place.is_dir():
        clips = list(_folder(place, audio_only=audio_only))
    elif place.is_file() and place.suffix.lower() in LIST_SUFFIXES:
        clips = list(_list(place, (root or place.parent).resolve()))
    else:
        raise InputError(
            f"{name}: {place} is neither a folder nor a list ({', '.join(LIST_SUFFIXES)}). Check the path."
        )
    if not clips:
        raise InputError(f"{name}: {place} holds no media file. Name the folder of the clips, or a list of them.")
    if len(clips) > MAX_CLIPS:
        raise InputError(f"{name}: {place} holds {len(clips):,} clips; at most {MAX_CLIPS:,} are compared at once")
    _refuse_doubles(clips, name, place)
    ordered = sorted(clips, key=lambda clip: (clip.clip_id, clip.sample))
    return ClipSet(name=name, place=place, clips=tuple(ordered))


def require_join(generated: ClipSet, real: ClipSet, *, same_clips: bool, allow_unequal: bool) -> tuple[str, ...]:
    """Check that the two sides can be compared.

    Returns: the clip ids that both sides hold, ascending; empty where clips do not belong together.
    Raises: InputError for clips without a partner or an unequal number of clips, unless `allow_unequal`; and in any
        case where clips should belong together and none does.
    """
    ours, theirs = set(generated.clip_ids), set(real.clip_ids)
    if not same_clips:
        if len(ours) != len(theirs) and not allow_unequal:
            raise InputError(
                f"{len(ours):,} generated clips ({generated.place}) and {len(theirs):,} real ones ({real.place}): a "
                f"distance depends on N, so both sides must have as many. Make the sets equal; --allow-unequal "
                f"compares them as they are, and then no value can stand beside another N's."
            )
        return ()
    both = tuple(sorted(ours & theirs))
    alone = [
        (f"{len(left):,} {of} without a partner ({names(left)})")
        for of, left in (("generated", ours - theirs), ("real", theirs - ours))
        if left
    ]
    if not both:
        raise InputError(f"no generated clip has a real partner of its clip_id: {'; '.join(alone)}. Check the names.")
    if alone and not allow_unequal:
        raise InputError(
            f"{len(ours):,} generated and {len(theirs):,} real clips: {'; '.join(alone)}. Give the same clips on both "
            f"sides; --allow-unequal leaves those without a partner out and compares the {len(both):,} that have one."
        )
    return both


def names(items: Iterable[str]) -> str:
    """The first five, in order, and how many more."""
    ordered = sorted(items)
    more = len(ordered) - NAMED
    return ", ".join(_short(item) for item in ordered[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _short(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:77]}..."


def _folder(place: Path, *, audio_only: bool) -> Iterator[ClipFile]:
    root = place.resolve()
    files = sorted(
        path for path in place.rglob("*") if not any(part.startswith(".") for part in path.relative_to(place).parts)
    )
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    taken = {path.relative_to(place).with_suffix("") for path in videos}
    audio = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES] if audio_only or not videos else []
    chosen = videos + [path for path in audio if path.relative_to(place).with_suffix("") not in taken]
    outside = [path for path in chosen if not path.resolve().is_relative_to(root)]
    if outside:
        raise InputError(
            f"{place}: {len(outside):,} files are links to places outside the folder "
            f"({names(path.name for path in outside)}). Give a list with the real paths, and --root."
        )
    for path in chosen:
        yield ClipFile(clip_id=path.relative_to(place).with_suffix("").as_posix(), path=path, text=_text_of(path))


def _text_of(path: Path) -> str:
    """The caption in the JSON that the sampler writes beside each sample; empty where there is none."""
    beside = path.with_suffix(".json")
    try:
        if beside.stat().st_size > 1 << 20:
            return ""
        content = json.loads(beside.read_bytes())
    except (OSError, ValueError):
        return ""
    request = content.get("request") if isinstance(content, dict) else None
    text = request.get("text") if isinstance(request, dict) else None
    return text[:MAX_TEXT_CHARACTERS] if isinstance(text, str) else ""


def _list(place: Path, root: Path) -> Iterator[ClipFile]:
    outside: list[str] = []
    for number, row in enumerate(_rows(place), start=1):
        clip = _clip(row, place, number)
        path = clip.path if clip.path.is_absolute() else place.parent / clip.path
        if not path.resolve().is_relative_to(root):
            outside.append(str(clip.path))
            continue
        yield replace(clip, path=path)
    if outside:
        raise InputError(
            f"{place}: {len(outside):,} paths lie outside {root} ({names(outside)}). Name the folder that holds all of "
            f"them with --root."
        )


def _rows(place: Path) -> Iterator[Mapping[str, Any]]:
    try:
        if place.suffix.lower() == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            try:
                table = pq.read_table(place)
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{place}: not a readable Parquet file ({_first(error)})") from error
            yield from table.to_pylist()
        elif place.suffix.lower() == ".csv":
            with place.open(encoding="utf-8-sig", newline="") as file:
                yield from csv.DictReader(file)
        else:
            with place.open(encoding="utf-8-sig") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield _object(line, place, number)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{place}: not readable as UTF-8 text ({_first(error)})") from error


def _object(line: str, place: Path, number: int) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise InputError(f"{place}:{number}: not a JSON object ({_first(error)})") from error
    if not isinstance(value, dict):
        raise InputError(f"{place}:{number}: not a JSON object")
    return value


def _clip(row: Mapping[str, Any], place: Path, number: int) -> ClipFile:
    where = f"{place}: row {number}"
    given = {key: value for key, value in row.items() if value is not None and value != ""}
    for column in ("clip_id", "path"):
        if column not in given:
            raise InputError(
                f"{where} has no {column}; columns: {', '.join(map(str, row)) or 'none'}. Wanted: {COLUMNS}"
            )
    whole = {}
    for column in ("sample", "start_ms"):
        try:
            whole[column] = int(given.get(column, 0))
        except (TypeError, ValueError) as error:
            raise InputError(f"{where}: {column} is {given[column]!r}; wanted a whole number") from error
        if not 0 <= whole[column] <= 10**9:
            raise InputError(f"{where}: {column} is {whole[column]}; wanted 0 or more")
    clip_id = str(given["clip_id"])
    if len(clip_id) > MAX_ID_CHARACTERS or "\0" in str(given["path"]):
        raise InputError(f"{where}: clip_id or path is no name ({len(clip_id)} characters)")
    words = {key: str(given.get(key, ""))[:MAX_TEXT_CHARACTERS] for key in ("task", "text", "label")}
    return ClipFile(
        clip_id=clip_id,
        path=Path(str(given["path"])),
        sample=whole["sample"],
        start_ms=whole["start_ms"],
        task=words["task"],
        text=words["text"],
        label=words["label"],
    )


def _refuse_doubles(clips: Sequence[ClipFile], name: str, place: Path) -> None:
    counts = Counter((clip.clip_id, clip.sample) for clip in clips)
    double = [clip_id for (clip_id, _), count in counts.items() if count > 1]
    if double:
        raise InputError(
            f"{name}: {place} names {len(double):,} clips more than once ({names(double)}). A clip stands once; number "
            f"several samples of one clip in the column 'sample'."
        )


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
