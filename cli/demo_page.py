"""The demo's page: players, contact sheet, loss curve and clip counts, from the results of its commands."""

from collections.abc import Sequence
from pathlib import Path

PAGE_NAME = "index.html"
TEMPLATE = Path(__file__).with_name("templates") / "demo.html.j2"


def write_page(out: Path, commands: Sequence[tuple[str, str]]) -> Path:
    """Write `index.html` with all results of the demo. Returns its path.

    Args:
        commands: title and command line of each step, in order.
    """
    from pipelines.report.page import make_report
    from pipelines.run.folder import RunFolder
    from uniform.atomic import write_bytes
    from uniform.pages import render_page
    from uniform.sampling.gallery import read_samples

    page = render_page(
        TEMPLATE,
        commands=commands,
        report=make_report(RunFolder(out / "shards")),
        samples=read_samples(out / "samples"),
        previews=sorted(path.name for path in (out / "preview").glob("*.mp4")),
    )
    write_bytes(out / PAGE_NAME, page.encode())
    return out / PAGE_NAME
