"""Text around labels and captions: templates that name fields, and the one form in which captions are kept."""

import string
import unicodedata
from collections.abc import Collection, Mapping, Sequence

from uniform.config import nearest
from uniform.errors import ConfigError

MOST_LABELS = 24
"""Labels that a text for a model names; some data sets give a clip thousands."""


def clean(text: str) -> str:
    """`text` in NFC, on one line, without control characters and doubled spaces."""
    visible = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
    return " ".join(unicodedata.normalize("NFC", visible).split())


def check_template(template: str, known: Collection[str], where: str) -> set[str]:
    """The fields that a template names. Raises ConfigError for broken braces and for a field that is not `known`."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"{where} {template!r}: {error}; write a field as {{labels}}") from error
    named: set[str] = set()
    for _, name, layout, conversion in parts:
        if name is None:
            continue
        if name not in known:
            raise ConfigError(f"{where} {template!r}: unknown field '{name}'{nearest(name, known)}")
        if layout or conversion:
            raise ConfigError(f"{where} {template!r}: write '{{{name}}}' without '!' and ':'")
        named.add(name)
    return named


def label_words(labels: Sequence[str], separator: str = ", ", most: int | None = None) -> Mapping[str, str]:
    """What `{label}` and `{labels}` stand for: the first label, and the first `most` of all."""
    return {"label": labels[0] if labels else "", "labels": separator.join(labels[:most])}
