"""The clips of an evaluation, what was found of each, and which of them count."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from uniform.errors import InputError
from uniform.evaluation.clip_files import FileState
from uniform.evaluation.extract import ClipJob
from uniform.evaluation.reading import SILENT_DBFS
from uniform.evaluation.sets import ClipFile, ClipSet, names
from uniform.evaluation.table import Member

Side = Literal["generated", "real", "reference"]
DURATION_TOLERANCE_S = 0.25
"""Sets whose usual length differs by more are of unequal duration."""


@dataclass(frozen=True, kw_only=True)
class Drop:
    """A clip that does not count, and why."""

    side: Side
    clip_id: str
    sample: int
    code: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ClipRecord:
    """A clip of a set, as far as it was looked at."""

    clip: ClipFile
    state: FileState
    rms_dbfs: float | None = None
    motion: float | None = None
    drop: Drop | None = None

    @property
    def member(self) -> Member:
        """clip_id and sample."""
        return self.clip.clip_id, self.clip.sample

    @property
    def content(self) -> str:
        """The file's digest and the clip's start."""
        return f"{self.state.sha256}-{self.clip.start_ms}"

    @property
    def silent(self) -> bool:
        """Whether the audio lies below -60 dBFS."""
        return self.rms_dbfs is not None and self.rms_dbfs < SILENT_DBFS

    @property
    def frozen(self) -> bool:
        """Whether nothing moves."""
        return self.motion == 0.0


def refuse_unequal_durations(
    duration_s: float, sets: Mapping[Side, ClipSet], states: Mapping[Side, Sequence[FileState]]
) -> None:
    """Refuse sets whose usual clip lengths differ within what the protocol reads."""
    wanted_s = duration_s
    usual: dict[Side, float] = {}
    paired: tuple[Side, ...] = ("generated", "real")
    for side in paired:
        lengths = [
            min(state.duration_s - clip.start_ms / 1000, wanted_s)
            for clip, state in zip(sets[side].clips, states[side], strict=True)
            if state.duration_s is not None
        ]
        if not lengths:
            return
        usual[side] = float(median(lengths))
    if abs(usual["generated"] - usual["real"]) <= DURATION_TOLERANCE_S:
        return
    short: Side = "generated" if usual["generated"] < usual["real"] else "real"
    named = [
        clip.clip_id
        for clip, state in zip(sets[short].clips, states[short], strict=True)
        if state.duration_s is not None and state.duration_s - clip.start_ms / 1000 < wanted_s - DURATION_TOLERANCE_S
    ]
    raise InputError(
        f"the protocol reads {wanted_s} s; {len(sets['generated'].clips):,} generated clips are usually "
        f"{usual['generated']:.2f} s long and {len(sets['real'].clips):,} real ones {usual['real']:.2f} s. "
        f"{len(named):,} {short} clips are shorter than {wanted_s} s ({names(named)}). Make both sets equally long, "
        f"or take a protocol of that length; --allow-unequal drops the short clips as too_short."
    )


def without_partners(records: Mapping[Side, Sequence[ClipRecord]]) -> dict[Side, tuple[ClipRecord, ...]]:
    """Clips count in pairs: where one side is dropped, its partner is too, with a code of its own."""
    usable = {side: {record.clip.clip_id for record in of if record.drop is None} for side, of in records.items()}
    result: dict[Side, tuple[ClipRecord, ...]] = {side: tuple(of) for side, of in records.items()}
    both = usable["generated"] & usable["real"]
    paired: tuple[Side, ...] = ("generated", "real")
    for side in paired:
        result[side] = tuple(
            record
            if record.drop is not None or record.clip.clip_id in both
            else replace(
                record,
                drop=Drop(
                    side=side,
                    clip_id=record.clip.clip_id,
                    sample=record.clip.sample,
                    code="partner_dropped",
                    reason="the clip of the same clip_id on the other side is dropped",
                ),
            )
            for record in records[side]
        )
    return result


def job_of(record: ClipRecord) -> ClipJob:
    """What `extract` is asked for."""
    return ClipJob(content=record.content, path=record.clip.path, start_ms=record.clip.start_ms, text=record.clip.text)
