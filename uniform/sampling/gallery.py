"""Write an HTML page of all finished samples in a folder."""

from pathlib import Path
from typing import Any

from uniform.atomic import write_bytes
from uniform.errors import InputError
from uniform.pages import render_page
from uniform.sampling.results import finished

GALLERY_NAME = "index.html"
TEMPLATE = Path(__file__).with_name("templates") / "gallery.html.j2"
GENERATOR = "UniForm gallery"
"""Value of the page's generator tag; identifies a page that may be overwritten."""


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """Metadata of every finished sample of `folder`, each with its "name", sorted by name."""
    return [{"name": path.stem, **metadata} for path, metadata in finished(folder)]


def require_no_other_page(folder: Path) -> None:
    """Raise InputError where `folder` has an index.html that is not a gallery of samples."""
    page = folder / GALLERY_NAME
    if page.exists() and GENERATOR.encode() not in page.read_bytes():
        raise InputError(
            f"{page}: is not a gallery of samples. Nothing is overwritten: choose another --out, or remove it."
        )


def write_gallery(folder: Path, title: str) -> Path:
    """Write `index.html` with every finished sample of `folder` (`render.write_sample`). Returns its path.

    Captions and names are escaped: a caption that looks like HTML is shown as text.
    Raises: InputError where another page has this name.
    """
    require_no_other_page(folder)
    samples = read_samples(folder)
    page = render_page(TEMPLATE, title=title, generator=GENERATOR, samples=samples)
    write_bytes(folder / GALLERY_NAME, page.encode())
    return folder / GALLERY_NAME
