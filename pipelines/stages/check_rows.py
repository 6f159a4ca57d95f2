"""Reject clips by their manifest rows, before anything is fetched: duplicates, and labels in another script.

The same source span in two datasets of a run is marked when the run is planned
(`pipelines/manifest/cross_dataset_duplicates.py`). `uniform manifest near-duplicates` finds perceptual copies; give its
table as `leave_out`.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.clip import Clip
from pipelines.manifest.cross_dataset_duplicates import MARK
from pipelines.manifest.set_operations import read_clip_ids
from pipelines.stage import Context, Resources, Store, Work
from uniform.errors import ConfigError
from uniform.latents.format import ids_digest
from uniform.spec import Spec


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Checks manifest rows; has no outputs."""

    needs = ()
    gives = ()
    reads = ("labels", "caption", "extra")
    store = Store("ledger")
    resources = Resources(cpus=0.25, memory_gb=0.5)

    same_span: bool = True
    """Reject a clip whose source span is in an earlier dataset of the run."""
    leave_out: tuple[str, ...] = ()
    """Tables of clips (`uniform manifest near-duplicates --out`) to reject as duplicates."""
    scripts: tuple[str, ...] | None = None
    """Allowed scripts of labels and captions, by their Unicode names: latin, cyrillic, cjk, hangul, ..."""

    def __post_init__(self) -> None:
        for script in self.scripts or ():
            if all(_script(chr(code)) != script for code in range(0x20, 0x10000)):
                raise ConfigError(
                    f"check_rows.scripts: '{script}' is not a script of Unicode; wanted for instance latin or greek"
                )

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        """The options, and the clips of `leave_out`."""
        left_out = ids_digest(self._left_out()) if self.leave_out else None
        scripts = sorted(self.scripts) if self.scripts is not None else None
        return {"version": 1, "same_span": self.same_span, "scripts": scripts, "left_out": left_out}

    def open(self, context: Context) -> Work:
        """The work; reads the tables of `leave_out`."""
        left_out = self._left_out()
        return lambda clips: self._check_all(clips, left_out)

    def _left_out(self) -> frozenset[str]:
        return frozenset(clip_id for table in self.leave_out for clip_id in read_clip_ids(Path(table).expanduser()))

    def _check_all(self, clips: Iterator[Clip], left_out: frozenset[str]) -> Iterator[Clip]:
        for clip in clips:
            yield self._check(clip, left_out)

    def _check(self, clip: Clip, left_out: frozenset[str]) -> Clip:
        row = clip.row
        if self.same_span and MARK in row.extra:
            return clip.drop("duplicate", f"{row.source_id!r} at {row.start_ms / 1000:g} s is {row.extra[MARK]} too")
        if row.clip_id in left_out:
            return clip.drop("duplicate", f"listed in leave_out ({', '.join(self.leave_out)})")
        for text in (*row.labels, *([row.caption] if row.caption else [])):
            strange = None if self.scripts is None else foreign_letter(text, self.scripts)
            if strange is not None:
                found = f"{text!r} holds {strange!r} of the script {_script(strange)}"
                return clip.drop("label_script", f"{found}; wanted {', '.join(self.scripts or ())}")
        return clip


def foreign_letter(text: str, scripts: tuple[str, ...]) -> str | None:
    """The first letter of `text` outside the scripts, or None. Characters that are not letters are in every script."""
    return next((letter for letter in text if _script(letter) not in (None, *scripts)), None)


def _script(character: str) -> str | None:
    """The first word of a letter's Unicode name, which names its script; None for digits, accents, the micro sign."""
    name = unicodedata.name(character, "") if character.isalpha() else ""
    first, _, rest = name.partition(" ")
    return first.lower() if any(kind in rest for kind in ("LETTER", "SYLLABLE", "IDEOGRAPH")) else None
