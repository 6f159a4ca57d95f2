"""A page of all samples in a folder, made anew from the files that are there, so that it grows with them."""

from pathlib import Path
from typing import Any

from uniform.atomic import write_bytes
from uniform.errors import InputError
from uniform.pages import render_page
from uniform.sampling.results import finished

GALLERY_NAME = "index.html"
TEMPLATE = Path(__file__).with_name("templates") / "gallery.html.j2"
GENERATOR = "UniForm gallery"
"""What the page says of itself, by which it is known again."""


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """Facts of every finished sample of `folder`, each with its "name", in the order of the names."""
    return [{"name": path.stem, **facts} for path, facts in finished(folder)]


def require_no_other_page(folder: Path) -> None:
    """Raise InputError where `folder` has an index.html that no gallery of ours may replace."""
    page = folder / GALLERY_NAME
    if page.exists() and GENERATOR.encode() not in page.read_bytes():
        raise InputError(
            f"{page}: is no gallery of samples. Nothing is overwritten: choose another --out, or remove it."
        )


def write_gallery(folder: Path, title: str) -> Path:
    """Write `index.html` over every finished sample of `folder` (`render.write_sample`). Returns its path.

    Captions and names are escaped: a caption that looks like HTML is shown as text.
    Raises: InputError where another page has that name.
    """
    require_no_other_page(folder)
    samples = read_samples(folder)
    page = render_page(TEMPLATE, title=title, generator=GENERATOR, samples=samples)
    write_bytes(folder / GALLERY_NAME, page.encode())
    return folder / GALLERY_NAME
