"""Captions without a model: labels in a template, the text of the listing, an edited table, or a merge with labels.

The paper uses the class label as the caption of Landscape (4.1). Each caption set has a name and its own table, so new
captions do not change the latents.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipelines.clip import Clip, Row
from pipelines.stage import Context, Resources, Store, Work
from pipelines.stage_support.caption_table import read_captions, require_set_name
from uniform.captioning.wording import check_template, clean, label_words
from uniform.errors import ConfigError
from uniform.fingerprint import file_sha256
from uniform.spec import Spec

FIELDS = ("label", "labels", "dataset", "split")
"""Fields of a template: the first label, all labels joined, the names of dataset and split."""
MERGED = "caption"
"""Additional field of a merge: the caption of the previous stage."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Outputs `caption` and its `origin`."""

    gives = ("caption", "origin")
    resources = Resources(cpus=0.1, memory_gb=0.2)

    source: Literal["labels", "given", "file", "merge"] = "labels"
    """labels: the template; given: the text of the listing; file: a table by clip id; merge: the template around the
    caption of the previous stage (`{caption} Sounds: {labels}.`): captions without sounds mislead audio models."""
    set: str = "labels"
    """Name of this caption set: its table is `captions/<set>`."""
    template: str = "{labels}"
    """Text around the labels, for instance "the sound of {label}"."""
    templates: Mapping[str, str] = field(default_factory=dict)
    """Dataset -> its template, in place of `template`."""
    separator: str = ", "
    """Text between the labels in `{labels}`."""

    file: str = ""
    """For source = "file": the table that `uniform captions import` wrote."""

    def __post_init__(self) -> None:
        require_set_name("caption.set", self.set)
        if bool(self.file) != (self.source == "file"):
            raise ConfigError(f"caption.source is {self.source!r} and caption.file is {self.file!r}; give both or none")
        for template in (self.template, *self.templates.values()):
            self._check(template)

    def _check(self, template: str) -> None:
        merges = self.source == "merge"
        named = check_template(template, (*FIELDS, MERGED) if merges else FIELDS, "caption template")
        if merges and MERGED not in named:
            raise ConfigError(f"caption template {template!r} of a merge needs {{caption}}")
        if not merges and not named & {"label", "labels"}:
            raise ConfigError(f"caption template {template!r} needs {{label}} or {{labels}}")

    @property
    def needs(self) -> tuple[str, ...]:
        """Of a merge, the caption."""
        return ("caption",) if self.source == "merge" else ()

    @property
    def reads(self) -> tuple[str, ...]:
        """Manifest columns that change a caption."""
        columns = {"given": ("caption", "caption_origin"), "file": ()}
        return columns.get(self.source, ("labels", "split"))

    @property
    def store(self) -> Store:
        """One table per caption set."""
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
        """The work; reads the table of source = "file"."""
        written = read_captions(_existing(self.file)) if self.source == "file" else {}

        def work(clips: Iterator[Clip]) -> Iterator[Clip]:
            for clip in clips:
                yield self._caption(clip, written)

        return work

    def _caption(self, clip: Clip, written: Mapping[str, tuple[str, str]]) -> Clip:
        row = clip.row
        if self.source == "file":
            if row.clip_id not in written:
                return clip.drop("caption_missing", f"{self.file} has no caption of this clip")
            text, origin = written[row.clip_id]
        elif self.source == "given":
            if row.caption is None:
                return clip.drop("caption_missing", 'the listing has no caption; use source = "labels"?')
            text, origin = row.caption, row.caption_origin or "given"
        elif self.source == "merge":
            text, origin = self._merged(row, clip["caption"]), "merge"
        else:
            if not row.labels:
                return clip.drop("caption_missing", 'the row has no label; use source = "given"?')
            text, origin = self._from_labels(row), "label"
        text = clean(text)
        if not text:
            return clip.drop("caption_empty", "the caption holds only spaces and control characters")
        return clip.with_fields(caption=text, origin=origin)

    def _from_labels(self, row: Row, **more: str) -> str:
        words = {**label_words(row.labels, self.separator), "dataset": row.dataset, "split": row.split, **more}
        return self.templates.get(row.dataset, self.template).format_map(words)

    def _merged(self, row: Row, caption: str) -> str:
        """The merged caption; without labels the caption unchanged, so that no "Sounds: ." follows it."""
        return self._from_labels(row, caption=caption) if row.labels else caption


def _existing(file: str) -> Path:
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"caption.file: {file} does not exist. `uniform captions import` writes it.")
    return path
