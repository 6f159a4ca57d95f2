"""A page of all samples in a folder, made anew from the files that are there, so that it grows with them."""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from uniform.atomic import write_bytes

GALLERY_NAME = "index.html"


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """Facts of every finished sample of `folder`, each with its "name", in the order of the names."""
    return [
        {"name": facts.stem, **json.loads(facts.read_text(encoding="utf-8"))}
        for facts in sorted(folder.glob("*.json"))
        if facts.with_suffix(".mp4").exists()
    ]


def write_gallery(folder: Path, title: str) -> Path:
    """Write `index.html` over every finished sample of `folder` (`render.write_sample`). Returns its path.

    Captions and names are escaped: a caption that looks like HTML is shown as text.
    """
    samples = read_samples(folder)
    pages = Environment(loader=PackageLoader("uniform.sampling"), autoescape=True, undefined=StrictUndefined)
    page = pages.get_template("gallery.html.j2").render(title=title, samples=samples)
    write_bytes(folder / GALLERY_NAME, page.encode())
    return folder / GALLERY_NAME
