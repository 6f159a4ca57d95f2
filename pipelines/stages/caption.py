"""Captions that need no model: a template over the clip's labels, or the text that its listing gives.

The paper takes the class label as the caption of Landscape (4.1). Each set of captions has a name, and is a table of
its own: new captions leave the latents alone.
"""

import re
import string
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.clip import Clip, Row
from pipelines.stage import Context, Resources, Store, Work
from uniform.config import nearest
from uniform.errors import ConfigError
from uniform.spec import Spec

FIELDS = ("label", "labels", "dataset", "split")
"""What a template may hold: the first label, all labels joined, the data set's and the split's name."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Gives `caption` and where it comes from (`origin`)."""

    needs = ()
    gives = ("caption", "origin")
    reads = ("labels", "caption", "caption_origin", "split")  # columns of the row that change a caption
    resources = Resources(cpus=0.1, memory_gb=0.2)

    source: Literal["labels", "given"] = "labels"
    set: str = "labels"
    """Name of this set of captions: its table is `captions/<set>`."""
    template: str = "{labels}"
    """Text around the labels, for instance "the sound of {label}"."""
    templates: Mapping[str, str] = field(default_factory=dict)
    """Data set -> its own template."""
    separator: str = ", "
    """Stands between labels in `{labels}`."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", self.set):
            raise ConfigError(f"caption.set is {self.set!r}; it must be lower case letters, digits, _ and -")
        for template in (self.template, *self.templates.values()):
            _check_template(template)

    @property
    def store(self) -> Store:
        """One table per set of captions."""
        return Store("table", f"captions/{self.set}")

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        """Everything that changes a caption."""
        if self.source == "given":
            return {"version": 1, "source": "given"}
        words = {"template": self.template, "templates": dict(self.templates), "separator": self.separator}
        return {"version": 1, "source": "labels", **words}

    def open(self, context: Context) -> Work:
        """Nothing to load."""
        return self._caption_all

    def _caption_all(self, clips: Iterator[Clip]) -> Iterator[Clip]:
        for clip in clips:
            yield self._caption(clip)

    def _caption(self, clip: Clip) -> Clip:
        row = clip.row
        if self.source == "given":
            if row.caption is None:
                return clip.reject("caption_missing", 'the listing gives no caption; use source = "labels"?')
            text, origin = row.caption, row.caption_origin or "given"
        else:
            if not row.labels:
                return clip.reject("caption_missing", 'the row has no label; use source = "given"?')
            text, origin = self._from_labels(row), "label"
        text = clean(text)
        if not text:
            return clip.reject("caption_empty", "nothing is left of the caption but spaces")
        return clip.with_fields(caption=text, origin=origin)

    def _from_labels(self, row: Row) -> str:
        words = {
            "label": row.labels[0],
            "labels": self.separator.join(row.labels),
            "dataset": row.dataset,
            "split": row.split,
        }
        return self.templates.get(row.dataset, self.template).format_map(words)


def clean(text: str) -> str:
    """`text` in NFC, on one line, without control characters and doubled spaces."""
    visible = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
    return " ".join(unicodedata.normalize("NFC", visible).split())


def _check_template(template: str) -> None:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"caption template {template!r}: {error}; write a field as {{labels}}") from error
    for _, name, layout, conversion in parts:
        if name is None:
            continue
        if name not in FIELDS:
            raise ConfigError(f"caption template {template!r}: unknown field '{name}'{nearest(name, FIELDS)}")
        if layout or conversion:
            raise ConfigError(f"caption template {template!r}: write '{{{name}}}' without '!' and ':'")
    if not any(name in ("label", "labels") for _, name, _, _ in parts):
        raise ConfigError(f"caption template {template!r} holds neither {{label}} nor {{labels}}")
