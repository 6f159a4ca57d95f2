"""A listing of 300,000 clips becomes the table of clips: seconds, memory, and the ratio to a bare CSV pass.

    python benchmarks/manifest_scale.py [--rows 300000]

The bare pass reads the same file by `csv.DictReader` and parses the two numbers, in the same process. `--published`
also builds the two large listings of the paper's data, generated in their published form and size: AudioSet-strong
(934,821 events of 103,463 segments) and the whole of VGGSound (199,467 lines); their counts are checked as of the real.
"""

import argparse
import csv
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipelines.clip import Row
from pipelines.manifest.build import build_rows, find_manifest, read_manifest, read_rows, write_parquet

MANIFEST = """
name = "scale"
kind = "youtube"
[listing]
file = "listing.csv"
comment = "#"
label_separator = ","
columns = { source_id = "id", start_s = "start", end_s = "end", labels = "labels", split = "set" }
"""
STRONG_EVENTS, STRONG_SEGMENTS, VGGSOUND_LINES = 934_821, 103_463, 199_467
LISTINGS = Path(__file__).parents[1] / "data_manifests" / "listings"
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"


def write_listing(path: Path, rows: int) -> None:
    """A listing of AudioSet's form: one video in seven has two clips, a twentieth is for testing."""
    with path.open("w") as file:
        file.write("# generated\nid, start, end, labels, set\n")
        for number in range(rows):
            source = number - number % 7 if number % 7 == 1 else number
            split = "test" if source % 20 == 0 else "train"
            start = 20 * (number % 7)
            labels = f'"label {number % 300},sound {number % 11}"'
            file.write(f"{video_id(source)}, {start}.000, {start + 10}.000, {labels}, {split}\n")


def video_id(number: int) -> str:
    """Eleven letters such as a video's id, another for each number; some begin with a dash."""
    rest, name = number * 2_654_435_761 % 2**64, ""
    for _ in range(11):
        rest, digit = divmod(rest, 64)
        name += LETTERS[digit]
    return name


def write_strong(path: Path) -> None:
    """AudioSet-strong's training listing in form and size: a header, then one line for each event."""
    mids = [line.split("\t")[0] for line in (LISTINGS / "audioset_strong_labels.tsv").read_text().splitlines()]
    more = STRONG_EVENTS - 9 * STRONG_SEGMENTS  # segments with a tenth event
    with path.open("w") as file:
        file.write("segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n")
        for segment in range(STRONG_SEGMENTS):
            for event in range(10 if segment < more else 9):
                mid = mids[(segment + 7 * event) % len(mids)]
                start_ms = f"{video_id(segment)}_{30_000 if segment % 3 else 0}"
                file.write(f"{start_ms}\t{event}.000\t{event}.{1 + segment % 999:03d}\t{mid}\n")


def write_vggsound(path: Path) -> None:
    """VGGSound's listing in form and size: no header, labels with commas quoted."""
    with path.open("w") as file:
        for line in range(VGGSOUND_LINES):
            split = "test" if line % 13 == 0 else "train"
            label = f'"sound {line % 309}, loud"' if line % 2 else f"sound {line % 309}"
            file.write(f"{video_id(line)},{line % 300},{label},{split}\n")


def published(folder: Path) -> None:
    """Build the listings that are too large to be at hand from generated ones."""
    for name, write, suffix in (("audioset_strong", write_strong, "tsv"), ("vggsound", write_vggsound, "csv")):
        listing = folder / f"{name}.{suffix}"
        write(listing)
        rows: list[Row] = []
        manifest = read_manifest(find_manifest(name))
        timed(f"build {name}", lambda: rows.extend(build_rows(manifest, listing)))  # noqa: B023  called at once
        dashes = sum(row.source_id.startswith("-") for row in rows)
        print(f"  {len(rows):,} clips, {listing.stat().st_size / 1e6:.0f} MB of listing, {dashes:,} ids with a dash")


def timed(name: str, work: Callable[[], object]) -> float:
    """Seconds that `work` takes; printed with the peak memory so far."""
    began, worked = time.perf_counter(), time.process_time()
    work()
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name:24s} {seconds:7.2f} s   {worked:7.2f} s of processor   peak {peak_mb:7.0f} MB")
    return seconds


def bare_pass(path: Path) -> int:
    """The least that any reader must do."""
    with path.open(newline="") as file:
        next(file)
        return sum(
            round(float(line["end"]) - float(line["start"])) for line in csv.DictReader(file, skipinitialspace=True)
        )


def main() -> None:
    """Build, write and read back; print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--published", action="store_true", help="also the large listings in their published size")
    chosen = parser.parse_args()
    rows = chosen.rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "scale.toml").write_text(MANIFEST)
        write_listing(folder / "listing.csv", rows)
        bare = timed("bare csv pass", lambda: bare_pass(folder / "listing.csv"))
        table = folder / "manifest.parquet"

        def build() -> None:
            write_parquet(build_rows(read_manifest(folder / "scale.toml")), table)

        whole = timed(f"build {rows:,} rows", build)
        timed("read the table", lambda: read_rows(table))
        if chosen.published:
            published(folder)
        print(f"build / bare pass        {whole / bare:7.1f}   table {table.stat().st_size / 2**20:.1f} MB")


if __name__ == "__main__":
    main()
