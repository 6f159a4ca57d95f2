"""HTML pages: one Jinja environment for all of them, with escaped values and a Content-Security-Policy.

A page is one file with its style inside. It shows files beside it and `data:` URLs, runs no script, and loads nothing
from another host.
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from uniform.formatting import format_bytes, format_count, format_duration

BASE_FOLDER = Path(__file__).with_name("templates")
"""Holds base.html.j2, the head of every page."""
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "img-src 'self' file: data:",  # file: for a page that is opened from a disk, where 'self' has no host
        "media-src 'self' file: data:",
        "style-src 'unsafe-inline'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)


def render_page(template: Path, **values: object) -> str:
    """Fill the template of a page.

    Args:
        template: a file that extends base.html.j2. Beside Jinja's own filters it has `count`, `duration` (seconds),
            `bytes`, and `percent(whole)`.
        values: what the template names. Strings are escaped: text that looks like HTML is shown as text.
    Raises: jinja2.TemplateError for a broken template or a value that is missing.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, BASE_FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters.update(count=format_count, duration=format_duration, bytes=format_bytes, percent=_percent)
    environment.globals["content_security_policy"] = CONTENT_SECURITY_POLICY
    return environment.get_template(template.name).render(values)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}" if whole else "0.0"
