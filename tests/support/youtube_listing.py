"""A listing of YouTube clips as a manifest reads it, with whatever a test adds."""

from pathlib import Path

from pipelines.clip import Row
from pipelines.manifest.build import build_rows, read_manifest

YOUTUBE = """
name = "tube"
kind = "youtube"
[listing]
file = "listing.csv"
{listing}
[listing.columns]
source_id = "id"
start_s = "start"
{columns}
"""


def rows_of(
    folder: Path, content: str | bytes, listing: str = "", columns: str = "", name: str = "listing.csv"
) -> list[Row]:
    """Rows of a YouTube listing with the columns id and start, and whatever the test adds."""
    (folder / "tube.toml").write_text(YOUTUBE.format(listing=listing, columns=columns))
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return build_rows(read_manifest(folder / "tube.toml"), folder / name)
