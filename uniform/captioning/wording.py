"""Templates with fields for labels and captions, and the normal form of captions."""

import string
import unicodedata
from collections.abc import Collection, Mapping, Sequence

from uniform.clean_text import clean_line
from uniform.config import nearest
from uniform.errors import ConfigError

MOST_LABELS = 24
"""Most labels in a prompt; some datasets give a clip thousands."""


def clean(text: str) -> str:
    """Normalise `text`: NFC, one line, single spaces, nothing that a terminal or a page would obey.

    Control and format characters, terminal escapes and lone surrogates leave; see `uniform.clean_text`.
    """
    return clean_line(unicodedata.normalize("NFC", clean_line(text)))


def check_template(template: str, known: Collection[str], where: str) -> set[str]:
    """The fields of a template. Raises ConfigError for unmatched braces and for a field that is not `known`."""
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
            raise ConfigError(f"{where} {template!r}: write '{{{name}}}', without '!' and ':'")
        named.add(name)
    return named


def label_words(labels: Sequence[str], separator: str = ", ", most: int | None = None) -> Mapping[str, str]:
    """Values of the fields `{label}` and `{labels}`: the first label, and the first `most` labels joined."""
    return {"label": labels[0] if labels else "", "labels": separator.join(labels[:most])}
