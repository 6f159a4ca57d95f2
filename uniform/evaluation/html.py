"""What the pages of this folder share: one style, a policy that loads nothing from elsewhere, relative addresses."""

import base64
import hashlib
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1200px;padding:0 1rem;
color:#1c1c1e;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}.lead{max-width:50rem}code{font-size:.85em}
table{border-collapse:collapse}th,td{padding:.35rem .6rem;border-bottom:1px solid #ddd;text-align:left;
vertical-align:top}
table.main td,table.clips td{text-align:right}table.clips td:first-child{text-align:left}
th small,td small{color:#666;font-weight:normal}.scroll{overflow-x:auto}
tr.real_halves{background:#fdf3d8}tr.generated{background:#eaf2fd}tr.paper{color:#555;font-style:italic}
.warn{color:#9a4b00;font-weight:600}.note{color:#9a4b00}.none{color:#888}
.charts{display:flex;flex-wrap:wrap;gap:1rem}.players{display:flex;flex-wrap:wrap;gap:1rem}
figure{margin:0;max-width:430px}.players figure{max-width:260px}video{width:240px;background:#000}
svg text{font:12px system-ui,sans-serif;fill:#333}rect{fill:#9aa4b1}rect.generated{fill:#2f6fd0}
rect.real_halves{fill:#e0b23c}
rect.codec{fill:#5fa777}.axis{stroke:#999}.whisker{stroke:#111;stroke-width:2}.curve{fill:none;stroke:#2f6fd0}
.onset{stroke:#c0392b;opacity:.6}th[data-column]{cursor:pointer;text-decoration:underline dotted}
"""


def content_hash(text: str) -> str:
    """The form in which a policy allows one inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def policy(script: str, style: str = STYLE) -> str:
    """A Content-Security-Policy: media from beside or inside the page, our own script and style, nothing else."""
    return (
        f"default-src 'none'; media-src 'self' file: data:; script-src {content_hash(script)}; "
        f"style-src {content_hash(style)}; base-uri 'none'; form-action 'none'"
    )


def relative_url(path: Path, folder: Path) -> str:
    """Address of a file as seen from a page in `folder`."""
    relative = os.path.relpath(path.absolute(), folder.absolute())
    return quote(relative if not relative.startswith("-") else f"./{relative}")


def render(template: str, **values: Any) -> str:
    """A page; all text is escaped."""
    environment = Environment(
        loader=PackageLoader("uniform.evaluation"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(**values)
