"""Captions that need no model: labels in a template, the listing's text, a file that people edited, or a merge of two.

The paper takes the class label as the caption of Landscape (4.1). Each set of captions has a name, and is a table of
its own: new captions leave the latents alone.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipelines.clip import Clip, Row
from pipelines.stage import Context, Resources, Store, Work
from pipelines.stage_support.caption_table import read_captions
from uniform.captioning.wording import check_template, clean, label_words
from uniform.errors import ConfigError
from uniform.fingerprint import file_sha256
from uniform.spec import Spec

FIELDS = ("label", "labels", "dataset", "split")
"""What a template may hold: the first label, all labels joined, the data set's and the split's name."""
MERGED = "caption"
"""Field of a merge's template: the caption of the stage before."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Gives `caption` and where it comes from (`origin`)."""

    gives = ("caption", "origin")
    resources = Resources(cpus=0.1, memory_gb=0.2)

    source: Literal["labels", "given", "file", "merge"] = "labels"
    """labels: the template; given: the listing's text; file: by clip id; merge: the template, around the caption of
    the stage before (`{caption} Sounds: {labels}.`): a caption without sounds misleads a model of sound."""
    set: str = "labels"
    """Name of this set of captions: its table is `captions/<set>`."""
    template: str = "{labels}"
    """Text around the labels, for instance "the sound of {label}"."""
    templates: Mapping[str, str] = field(default_factory=dict)
    """Data set -> its own template."""
    separator: str = ", "
    """Stands between labels in `{labels}`."""

    file: str = ""
    """For source = "file": what `uniform captions import` wrote."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", self.set):
            raise ConfigError(f"caption.set is {self.set!r}; it must be lower case letters, digits, _ and -")
        if bool(self.file) != (self.source == "file"):
            raise ConfigError(f"caption.source is {self.source!r} and caption.file is {self.file!r}; give both or none")
        for template in (self.template, *self.templates.values()):
            self._check(template)

    def _check(self, template: str) -> None:
        merges = self.source == "merge"
        named = check_template(template, (*FIELDS, MERGED) if merges else FIELDS, "caption template")
        if merges and MERGED not in named:
            raise ConfigError(f"caption template {template!r} merges, and holds no {{caption}}")
        if not merges and not named & {"label", "labels"}:
            raise ConfigError(f"caption template {template!r} holds neither {{label}} nor {{labels}}")

    @property
    def needs(self) -> tuple[str, ...]:
        """A caption, where one is merged."""
        return ("caption",) if self.source == "merge" else ()

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns of the row that change a caption."""
        columns = {"given": ("caption", "caption_origin"), "file": ()}
        return columns.get(self.source, ("labels", "split"))

    @property
    def store(self) -> Store:
        """One table per set of captions."""
        return Store("table", f"captions/{self.set}", caption_set=self.set)

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        """Everything that changes a caption."""
        if self.source == "given":
            return {"version": 1, "source": "given"}
        if self.source == "file":
            return {"version": 1, "source": "file", "sha256": file_sha256(_existing(self.file))}
        words = {"template": self.template, "templates": dict(self.templates), "separator": self.separator}
        return {"version": 1, "source": self.source, **words}

    def open(self, context: Context) -> Work:
        """Nothing to load but a file."""
        written = read_captions(_existing(self.file)) if self.source == "file" else {}

        def work(clips: Iterator[Clip]) -> Iterator[Clip]:
            for clip in clips:
                yield self._caption(clip, written)

        return work

    def _caption(self, clip: Clip, written: Mapping[str, tuple[str, str]]) -> Clip:
        row = clip.row
        if self.source == "file":
            if row.clip_id not in written:
                return clip.drop("caption_missing", f"{self.file} has no caption for it")
            text, origin = written[row.clip_id]
        elif self.source == "given":
            if row.caption is None:
                return clip.drop("caption_missing", 'the listing gives no caption; use source = "labels"?')
            text, origin = row.caption, row.caption_origin or "given"
        elif self.source == "merge":
            text, origin = self._merged(row, clip["caption"]), "merge"
        else:
            if not row.labels:
                return clip.drop("caption_missing", 'the row has no label; use source = "given"?')
            text, origin = self._from_labels(row), "label"
        text = clean(text)
        if not text:
            return clip.drop("caption_empty", "nothing is left of the caption but spaces")
        return clip.with_fields(caption=text, origin=origin)

    def _from_labels(self, row: Row, **more: str) -> str:
        words = {**label_words(row.labels, self.separator), "dataset": row.dataset, "split": row.split, **more}
        return self.templates.get(row.dataset, self.template).format_map(words)

    def _merged(self, row: Row, caption: str) -> str:
        """A clip without labels keeps the caption as it is: no "Sounds: ." after it."""
        return self._from_labels(row, caption=caption) if row.labels else caption


def _existing(file: str) -> Path:
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"caption.file: {file} is not there. `uniform captions import` writes it.")
    return path
