"""The demo's page: players, contact sheet, loss curve and clip counts, from the results of its commands."""

from collections.abc import Sequence
from pathlib import Path

PAGE_NAME = "index.html"


def write_page(out: Path, commands: Sequence[tuple[str, str]]) -> Path:
    """Write `index.html` with all results of the demo. Returns its path.

    Args:
        commands: title and command line of each step, in order.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from pipelines.report.page import make_report
    from pipelines.run.folder import RunFolder
    from uniform.atomic import write_bytes
    from uniform.sampling.gallery import read_samples

    pages = Environment(loader=PackageLoader("cli"), autoescape=True, undefined=StrictUndefined)
    page = pages.get_template("demo.html.j2").render(
        commands=commands,
        report=make_report(RunFolder(out / "shards")),
        samples=read_samples(out / "samples"),
        previews=sorted(path.name for path in (out / "preview").glob("*.mp4")),
    )
    write_bytes(out / PAGE_NAME, page.encode())
    return out / PAGE_NAME
