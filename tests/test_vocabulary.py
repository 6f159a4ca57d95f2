"""The words of docs/glossary.md hold: names and prose use the field's terms, not private ones."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

BANNED_NAMES = {
    "artefact": "artifact",
    "asking": "caption retry",
    "avworld": "synthetic",
    "bracket": "run_stage",
    "deviation": "std",
    "facts": "metadata",
    "film": "clip",
    "foretell": "predict",
    "foretold": "predicted",
    "givers": "producers",
    "guess": "prediction",
    "hardness": "difficulty",
    "heard": "audio",
    "journal": "metrics log",
    "keeper": "host states actor",
    "leaks": "split overlaps",
    "lifted": "unblocked",
    "lookalike": "near-duplicate",
    "lookout": "prefetch schedule",
    "mend": "fix",
    "mended": "fixed",
    "outcome": "result",
    "paced": "rate limited",
    "patience": "max wait",
    "pieces": "byte ranges",
    "reel": "frame collector",
    "remark": "note or warning",
    "remarks": "notes or warnings",
    "rests": "cools down",
    "road": "pipeline",
    "speedometer": "throughput timer",
    "spread": "shard or distribute",
    "story": "clip history",
    "survey": "run state",
    "surveyor": "run state",
    "tell": "show",
    "telling": "describe",
    "tells": "shows",
    "told": "metadata or message",
}
"""Parts of identifiers and of file names -> what to call it."""

BANNED_PROSE = {
    r"artefacts?": "artifact",
    r"at will": "any time",
    r"av ?world": "synthetic world",
    r"c[oa]mes? of": "result",
    r"data sets?": "dataset",
    r"doors?": "interface",
    r"films?": "clip",
    r"foretells?|foretold|foretelling": "estimate, predicted",
    r"hous(?:e|es)": "package",
    r"in peace": "uninterrupted",
    r"left the road|the whole road|roads?": "dropped, end to end, pipeline",
    r"look-?alikes?": "near-duplicate",
    r"lookout": "prefetch schedule",
    r"mend(?:s|ed|ing)?": "fix",
    r"19 times in 20": "95% interval",
    r"remarks?": "note, warning",
    r"speedometer": "throughput timer",
    r"survivors?": "kept clips",
    r"tells?|told|telling": "shows, reports, prints",
    r"wings?": "package",
}
"""Words of comments, docstrings, messages, help, pages and docs -> what to say."""

EXEMPT = {
    "CHANGELOG.md",
    "LICENSE",
    "docs/glossary.md",
    "tests/test_vocabulary.py",
    "uniform/renamed.py",
    *(f"uniform/captioning/prompts/{name}.toml" for name in ("scene", "scene_labels", "scene_sounds")),
}
"""They quote: the history of names, the table of names, the names that are still read, and prompts, whose text is part
of the fingerprints of caption sets."""

_PROSE = re.compile(
    r"\b(" + "|".join(f"(?P<w{i}>{word})" for i, word in enumerate(BANNED_PROSE)) + r")\b", re.IGNORECASE
)
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_FILES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "data_manifests/**/*.md", "data_manifests/**/*.toml", "scripts/*", "Makefile")
    for path in ROOT.glob(pattern)
    if path.is_file()
) + sorted(
    path
    for top in ("uniform", "pipelines", "cli", "tests", "benchmarks", "examples", "deploy")
    for path in (ROOT / top).rglob("*")
    if path.suffix in (".py", ".toml", ".j2", ".html", ".md") and "data" not in path.relative_to(ROOT).parts
)
_CHECKED = [path for path in _FILES if str(path.relative_to(ROOT)) not in EXEMPT]


def _names(path: Path) -> Iterator[tuple[int, str]]:
    """(line, identifier) of a Python file; the file's own name as line 0."""
    yield 0, path.stem
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string


def _prose(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of strings and comments of a Python file, or of all lines of another file."""
    if path.suffix != ".py":
        yield from enumerate(path.read_text().splitlines(), start=1)
        return
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT):
            yield token.start[0], token.string


_LIBRARY_NAMES = {("uniform/latents/shards/remote.py", "outcome")}
"""(file, name) of attributes that libraries have: tenacity's state of a call."""


@pytest.mark.parametrize("path", _CHECKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_words_are_those_of_the_glossary(path: Path) -> None:
    found = []
    if path.suffix == ".py":
        for line, name in _names(path):
            parts = {part.lower() for part in _PARTS.findall(name)}
            if (str(path.relative_to(ROOT)), name) not in _LIBRARY_NAMES:
                found += [f"line {line}: {name}: say {BANNED_NAMES[part]}" for part in parts & BANNED_NAMES.keys()]
    words = list(BANNED_PROSE.values())
    for line, text in _prose(path):
        for match in _PROSE.finditer(text):
            number = next(int(key[1:]) for key, value in match.groupdict().items() if value is not None)
            found.append(f"line {line}: '{match[0]}': say {words[number]}")

    assert not found, f"{path.relative_to(ROOT)}:\n" + "\n".join(found)


def test_the_check_finds_a_banned_word(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("The run foretells what comes of it.")

    assert [match[0] for _, text in _prose(page) for match in _PROSE.finditer(text)] == ["foretells", "comes of"]
    assert len(_CHECKED) > 300
