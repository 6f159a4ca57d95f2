"""A listing of 300,000 clips becomes the table of clips: seconds, memory, and the ratio to a bare CSV pass.

    python benchmarks/manifest_scale.py [--rows 300000]

The bare pass reads the same file by `csv.DictReader` and parses the two numbers, in the same process.
"""

import argparse
import csv
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipelines.manifest import build_rows, read_manifest, read_rows, write_parquet

MANIFEST = """
name = "scale"
kind = "youtube"
[listing]
file = "listing.csv"
comment = "#"
label_separator = ","
columns = { source_id = "id", start_s = "start", end_s = "end", labels = "labels", split = "set" }
"""
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"


def write_listing(path: Path, rows: int) -> None:
    """A listing of AudioSet's form: one video in seven has two clips, a twentieth is for testing."""
    with path.open("w") as file:
        file.write("# generated\nid, start, end, labels, set\n")
        for number in range(rows):
            source = number - number % 7 if number % 7 == 1 else number
            name, rest = "", source * 2_654_435_761 % 2**48
            for _ in range(11):
                rest, digit = divmod(rest, 64)
                name += LETTERS[digit]
            split = "test" if source % 20 == 0 else "train"
            start = 20 * (number % 7)
            file.write(f'{name}, {start}.000, {start + 10}.000, "label {number % 300},sound {number % 11}", {split}\n')


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
    rows = parser.parse_args().rows
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
        print(f"build / bare pass        {whole / bare:7.1f}   table {table.stat().st_size / 2**20:.1f} MB")


if __name__ == "__main__":
    main()
