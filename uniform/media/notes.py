"""Notes on a clip: a code with values for programs, formatted for people in one place.

A note travels in the ledger as text, `audio_gap_ms=340 start_ms=0 clip_ms=4000`: code and value, then more values.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from uniform.errors import PipelineError

Value = int | float | str

AUDIO_GAP_MS = "audio_gap_ms"
"""Milliseconds without audio; `start_ms` is where in the clip they begin, `clip_ms` the length of the clip."""
AUDIO_LEAD_MS = "audio_lead_ms"
"""Milliseconds of audio before the first frame of the file, left out."""
VIDEO_LATE_MS = "video_late_ms"
"""Milliseconds of the clip before its first frame; that frame is held."""
MONO_CHANNEL = "mono_channel"
"""Number of the channel that is used alone, because the channels cancel each other out."""
BAD_AUDIO_PACKETS = "bad_audio_packets"
"""Audio packets inside the clip that cannot be decoded."""
AUDIO_FORMS = "audio_forms"
"""Forms (rate, format, channels) of one audio track inside the clip; it is read as mono."""
NOT_FINITE = "not_finite"
"""Audio samples that are no finite numbers."""
CAPTION_TOKENS = "caption_tokens"
"""Tokens of a caption that is too long; `kept` of them are encoded."""
CAPTION_EDIT = "caption_edit"
"""How a model's caption was changed, as text."""
SOURCE = "source"
"""About the source that was fetched, as text."""
OTHER = "note"
"""Any other text, for instance of a ledger of version 0.3.0."""


@dataclass(frozen=True)
class Note:
    """Something to record about a clip that is kept."""

    code: str
    """Letters, digits and _; a unit is part of the name."""
    value: Value
    values: Mapping[str, Value] = field(default_factory=dict)
    """Further values by name."""

    def text(self) -> str:
        """The note as the ledger keeps it. `read_note` is the inverse."""
        pairs = ((self.code, self.value), *self.values.items())
        return " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in pairs)

    def __str__(self) -> str:
        """The note as a sentence for people."""
        format_note = _SENTENCES.get(self.code)
        return format_note(self) if format_note else f"{self.code} {self.value}"


def audio_gap(start_ms: int, end_ms: int, clip_ms: int) -> Note:
    """A note on a gap in the audio of a clip of `clip_ms`, from `start_ms` to `end_ms`."""
    return Note(AUDIO_GAP_MS, end_ms - start_ms, {"start_ms": start_ms, "clip_ms": clip_ms})


def missing_audio_ms(notes: Iterable[Note]) -> int:
    """Milliseconds without audio, by the notes on a clip; other notes do not count."""
    return sum(int(note.value) for note in notes if note.code == AUDIO_GAP_MS)


def _gap_sentence(note: Note) -> str:
    length_ms, start_ms = int(note.value), int(note.values["start_ms"])
    if start_ms == 0:
        return f"audio starts {length_ms:,} ms late"
    if start_ms + length_ms >= int(note.values["clip_ms"]):
        return f"audio ends {length_ms:,} ms early"
    return f"audio pauses for {length_ms:,} ms at {start_ms:,} ms"


_SENTENCES: Mapping[str, Callable[[Note], str]] = {
    AUDIO_GAP_MS: _gap_sentence,
    AUDIO_LEAD_MS: lambda note: f"audio begins {note.value:,} ms before the picture; that much is left out",
    VIDEO_LATE_MS: lambda note: f"picture starts {note.value:,} ms late; the first frame is held",
    MONO_CHANNEL: lambda note: f"the channels cancel each other out; channel {note.value} is used alone",
    BAD_AUDIO_PACKETS: lambda note: f"{note.value} packets of sound cannot be decoded",
    AUDIO_FORMS: lambda note: f"the audio has {note.value} forms inside the clip; it is read as mono",
    NOT_FINITE: lambda note: f"{note.value:,} samples are not finite numbers",
    CAPTION_TOKENS: lambda note: f"caption cut: {note.value:,} tokens, {note.values['kept']:,} kept",
    CAPTION_EDIT: lambda note: str(note.value),
    SOURCE: lambda note: str(note.value),
    OTHER: lambda note: str(note.value),
}
"""Code -> its sentence. The sentences stand in the metadata of shards: to change one changes bytes."""


def read_note(text: str) -> Note:
    """A note from its text in a ledger. Raises PipelineError where it has no known shape of a note."""
    decoder, pairs, at = json.JSONDecoder(), list[tuple[str, Value]](), 0
    while at < len(text):
        name, equals, _ = text[at:].partition("=")
        if not equals or not name.isidentifier():
            return _read_sentence(text)
        try:
            value, at = decoder.raw_decode(text, at + len(name) + 1)
        except ValueError:
            return _read_sentence(text)
        if not isinstance(value, Value):
            raise PipelineError(f"the ledger's note {text[:200]!r}: '{name}' is neither a number nor a text")
        pairs.append((name, value))
        at += 1  # the space
    if not pairs:
        return Note(OTHER, "")
    (code, value), *more = pairs
    if code == AUDIO_GAP_MS and not (isinstance(value, int) and {"start_ms", "clip_ms"} <= dict(more).keys()):
        raise PipelineError(f"the ledger's note {text[:200]!r} lacks a value; the ledger was altered")
    return Note(code, value, dict(more))


_OLD_LATE = re.compile(r"audio starts ([\d,]+) ms late")
_OLD_EARLY = re.compile(r"audio ends ([\d,]+) ms early")
_OLD_PAUSE = re.compile(r"audio pauses for ([\d,]+) ms at ([\d,]+) ms")
_FAR_MS = 10**9
"""Stands for the length of a clip that a sentence does not give."""


def _read_sentence(text: str) -> Note:
    """A note of version 0.3.0, which wrote sentences. Only gaps in the audio need values: the check stage uses them."""
    if late := _OLD_LATE.fullmatch(text):
        return audio_gap(0, _number(late[1]), _FAR_MS)
    if early := _OLD_EARLY.fullmatch(text):
        return audio_gap(_FAR_MS - _number(early[1]), _FAR_MS, _FAR_MS)
    if pause := _OLD_PAUSE.fullmatch(text):
        start_ms = _number(pause[2])
        return audio_gap(start_ms, start_ms + _number(pause[1]), _FAR_MS)
    return Note(OTHER, text)


def _number(text: str) -> int:
    return int(text.replace(",", ""))
