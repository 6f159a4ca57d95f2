"""Every HTML page comes from one environment: escaped, without scripts, and without files of other hosts."""

import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from tests.support.paths import ROOT
from uniform.evaluation.html import policy
from uniform.pages import BASE_FOLDER, CONTENT_SECURITY_POLICY, render_page

BASE = BASE_FOLDER / "base.html.j2"
TEMPLATES = [
    path for top in ("uniform", "pipelines", "cli") for path in sorted((ROOT / top).rglob("*.j2")) if path != BASE
]
SCRIPTED = [path for path in TEMPLATES if path.parent == ROOT / "uniform" / "evaluation" / "templates"]
"""Pages that sort tables or take ratings: their own head allows their script by its hash."""
SOURCES = [path for top in ("uniform", "pipelines", "cli") for path in sorted((ROOT / top).rglob("*.py"))]


def page(tmp_path: Path, body: str, **values: object) -> str:
    template = tmp_path / "page.html.j2"
    template.write_text('{% extends "base.html.j2" %}{% block body %}' + body + "{% endblock %}")
    return render_page(template, **values)


def test_values_are_escaped(tmp_path: Path) -> None:
    assert "<p>&lt;b&gt;dog</p>" in page(tmp_path, "<p>{{ label }}</p>", label="<b>dog")


def test_every_page_has_the_policy_before_anything_it_governs(tmp_path: Path) -> None:
    html = page(tmp_path, "")

    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', html)
    assert policy is not None
    assert policy[1] == CONTENT_SECURITY_POLICY
    assert policy.start() < html.index("<style>")


def test_the_policy_names_no_other_host_and_no_script() -> None:
    assert CONTENT_SECURITY_POLICY.startswith("default-src 'none'")
    assert not re.search(r"https?:|\*|script", CONTENT_SECURITY_POLICY)


def test_a_missing_value_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UndefinedError, match="label"):
        page(tmp_path, "{{ label }}")


def test_numbers_are_formatted_by_filters(tmp_path: Path) -> None:
    body = "{{ 1234 | count }}; {{ 90 | duration }}; {{ 2500 | bytes }}; {{ 1 | percent(8) }}; {{ 0 | percent(0) }}"

    assert "1,234; 90.0 s; 2.5 kB; 12.5; 0.0" in page(tmp_path, body)


def test_there_are_pages() -> None:
    assert len(TEMPLATES) >= 4


@pytest.mark.parametrize("template", SCRIPTED, ids=lambda path: path.name)
def test_a_page_with_a_script_has_a_policy_of_its_own_before_it_and_no_other_host(template: Path) -> None:
    text = template.read_text()

    policy = text.index('<meta http-equiv="Content-Security-Policy" content="{{ policy }}">')
    assert policy < text.index("<style>")
    assert not re.search(r"<link|<iframe|https?://|@import|\bon\w+=|\burl\(", text)


def test_a_policy_of_a_script_allows_this_script_alone() -> None:
    found = policy("sort()", "body{}")

    assert found.startswith("default-src 'none'")
    assert re.search(r"script-src 'sha256-[\w+/=]+';", found)
    assert "unsafe" not in found


@pytest.mark.parametrize("template", [path for path in TEMPLATES if path not in SCRIPTED], ids=lambda path: path.name)
def test_a_page_extends_the_base_and_needs_no_script_and_no_other_host(template: Path) -> None:
    text = template.read_text()

    assert text.startswith('{% extends "base.html.j2" %}')
    assert not re.search(r"<script|<link|<iframe|https?://|@import|\bon\w+=|\burl\(", text)


def test_only_one_module_makes_a_jinja_environment() -> None:
    makers = [path for path in SOURCES if re.search(r"^\s*(import|from) jinja2\b", path.read_text(), re.MULTILINE)]

    assert [path.relative_to(ROOT).as_posix() for path in makers] == ["uniform/pages.py"]
