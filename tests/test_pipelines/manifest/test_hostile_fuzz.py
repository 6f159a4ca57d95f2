"""Damaged and hostile listings and archives: clips, or a named problem; no raw error, no hang, no wrong bytes."""

import io
import json
import random
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.manifest.build import inspect, read_manifest, read_rows, write_parquet
from pipelines.sources.archive import ArchiveTable, MemberError, reading
from uniform.errors import ConfigError, ManifestError

LONGEST_S = 10.0
CELLS: list[object] = [
    "a.mp4", "./a.mp4", "../a.mp4", "train", "test", "", None, 0, -1, 3, 1e-05, -0.0, 30.5, float("nan"), float("inf"),
    "1e-05", ".5", "0:30", "99999999999999999999", "nan", "None", "['dog', 'rain']", "b'x'", "{'a': 1}",
    ["dog", "rain"], [["dog"]], {"a": "b"}, True,
    "\x1b[31mx", "x" * 70_000, "é\u202e", "\ud83d", "a\0b", "\u2028", '"', "9" * 5_000,
    "http://[::1", "https://h.example/%zz", "=cmd()", "#", "a.zip#b#c.mp4",
]  # fmt: skip
KINDS = {
    "local": 'source_uri = "a"\nsplit = "b"\ncaption = "c"\n',
    "http": 'source_uri = "https://{a}/{b}"\nlabels = "c"\n',
    "archive": 'source_uri = "a"\nstart_s = "b"\nlabels = "c"\ncaption = "c"\n',
    "youtube": 'source_id = "a"\nend_s = "b"\nlicense = "c"\n',
}


def hostile_listing(chance: random.Random, form: str) -> bytes:
    """A listing of random cells in one of the formats; in half of them bytes are changed, cut or repeated."""
    rows = [{key: chance.choice(CELLS) for key in "abc"} for _ in range(chance.randrange(1, 8))]
    if form == "parquet":
        content = hostile_parquet(chance, rows)
    elif form == "jsonl":
        content = "\n".join(json.dumps(row) for row in rows).encode()
    else:
        glue = chance.choice([",", "\t", ";", '","'])
        lines = ["a,b,c", *(glue.join(str(row[key]) for key in "abc") for row in rows)]
        content = (
            chance.choice(["\n", "\r\n", "\r"])
            .join(lines)
            .encode(chance.choice(["utf-8", "utf-16", "utf-32"]), "surrogatepass")
        )
    return damaged(chance, content) if chance.random() < 0.5 else content


def hostile_parquet(chance: random.Random, rows: list[dict[str, object]]) -> bytes:
    columns = {}
    for key in "abc":
        kind = type(rows[0][key])
        values = [row[key] if type(row[key]) is kind else None for row in rows]
        values = [value.replace("\ud83d", "?") if isinstance(value, str) else value for value in values]
        columns[key] = pa.array([values[0]] * len(rows) if kind is list else values)
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, compression=chance.choice(["none", "snappy", "zstd"]))
    return file.getvalue()


def damaged(chance: random.Random, content: bytes) -> bytes:
    """The content with a cut, changed bytes, or a part put in again."""
    changed = bytearray(content)
    how = chance.randrange(3)
    if how == 0:
        return content[: chance.randrange(len(content) + 1)]
    if how == 1:
        place, length = chance.randrange(len(content) + 1), chance.randrange(200)
        return bytes(changed[:place] + changed[max(0, place - length) :])
    for _ in range(chance.randrange(1, 9)):
        if changed:
            changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def try_listings(folder: Path, count: int, seed: int) -> Counter[str]:
    """Read `count` hostile listings; returns how often each ended in which way."""
    chance, ends = random.Random(seed), Counter[str]()
    for _ in range(count):
        kind, form = chance.choice(sorted(KINDS)), chance.choice(["csv", "tsv", "jsonl", "parquet"])
        (folder / "listing").write_bytes(hostile_listing(chance, form))
        text = f'name = "m"\nkind = "{kind}"\n[listing]\nformat = "{form}"\nfile = "listing"\n'
        text += f'on_problem = "{chance.choice(["error", "drop"])}"\n[listing.columns]\n{KINDS[kind]}'
        (folder / "m.toml").write_text(text)
        begin_s = time.monotonic()
        try:
            built = inspect(read_manifest(folder / "m.toml"))
        except ManifestError as error:
            str(error).encode()
            ends["refused"] += 1
        else:
            for problem in (*built.problems.errors, *built.problems.warnings):
                str(problem).encode()
            write_parquet(built.rows, folder / "rows.parquet")
            assert read_rows(folder / "rows.parquet") == built.rows
            for row in built.rows:
                assert not {"nan", "None", "True", "{'a': 'b'}", "b'x'"} & {*row.labels, row.caption, row.license}
                assert "\0" not in f"{row.labels}{row.caption}"
            ends["problems" if built.problems.error_count else "rows"] += 1
        assert time.monotonic() - begin_s < LONGEST_S
    return ends


VIDEOS = [bytes([65 + n]) * (700 + 400 * n) for n in range(4)]


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for number, video in enumerate(VIDEOS):
            info = tarfile.TarInfo(f"{'é' if number % 2 else 'e'}{'x' * 40 * number}/{number}.mp4")
            info.size = len(video)
            archive.addfile(info, io.BytesIO(video))
        link = tarfile.TarInfo("link.mp4")
        link.type, link.linkname = tarfile.LNKTYPE, "e/0.mp4"
        archive.addfile(link)


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, video in enumerate(VIDEOS):
            archive.writestr(f"d/{number}.mp4", video)


def write_videos(path: Path) -> None:
    columns = {"video": VIDEOS, "label": ["dog", None, "é", "x"], "caption": [["a"], ["b", "c"], [], None]}
    pq.write_table(pa.table(columns), path, row_group_size=2)


WRITERS: dict[str, Callable[[Path], None]] = {"a.tar": write_tar, "a.zip": write_zip, "a.parquet": write_videos}


def try_archives(folder: Path, count: int, seed: int) -> Counter[str]:
    """Read all members of `count` damaged archives; returns how often each ended in which way."""
    chance, ends = random.Random(seed), Counter[str]()
    whole = {}
    for name, write in WRITERS.items():
        write(folder / name)
        whole[name] = (folder / name).read_bytes()
    for _ in range(count):
        name = chance.choice(sorted(whole))
        path = folder / name
        path.write_bytes(damaged(chance, whole[name]))
        begin_s = time.monotonic()
        try:
            table = ArchiveTable(path)
            members = list(table.names())
        except MemberError as error:
            ends[error.code] += 1
        else:
            for member in members:
                ends[read_member(table, member)] += 1
        assert time.monotonic() - begin_s < LONGEST_S
    return ends


def read_member(table: ArchiveTable, member: str) -> str:
    try:
        with reading(member), table.open(member, 1 << 20) as file:
            file.read()
    except MemberError as error:
        return error.code
    return "read"


CODES = {
    "read", "archive_corrupt", "archive_unsupported", "missing_source", "too_large", "encrypted", "outside_root",
    "unreadable_source",
}  # fmt: skip


def test_hostile_listings_give_rows_or_named_problems(tmp_path: Path) -> None:
    ends = try_listings(tmp_path, 120, seed=1)

    assert ends.total() == 120
    assert min(ends["refused"], ends["problems"], ends["rows"]) > 5


def test_damaged_archives_give_members_or_codes(tmp_path: Path) -> None:
    ends = try_archives(tmp_path, 100, seed=1)

    assert set(ends) <= CODES
    assert ends["read"] > 50
    assert ends["archive_corrupt"] > 10


@pytest.mark.slow
def test_two_thousand_hostile_listings_give_rows_or_named_problems(tmp_path: Path) -> None:
    assert try_listings(tmp_path, 2_000, seed=2).total() == 2_000


@pytest.mark.slow
def test_a_thousand_damaged_archives_give_members_or_codes(tmp_path: Path) -> None:
    assert set(try_archives(tmp_path, 1_000, seed=2)) <= CODES


@pytest.mark.parametrize("seed", range(4))
def test_damaged_manifests_are_read_or_named(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    text = 'name = "m"\nkind = "http"\n[listing]\nfile = "a.csv"\nduration_s = 4.0\nencoding = "utf-8"\n'
    text += 'derive.a = "(?P<x>[a-z]{1,9})"\nrows = 3\n[listing.columns]\nsource_uri = "https://{x}/"\nlabels = "b"\n'
    refused = 0
    for _ in range(60):
        (tmp_path / "m.toml").write_bytes(damaged(chance, text.encode()))
        try:
            read_manifest(tmp_path / "m.toml")
        except ConfigError as error:
            refused += "m.toml" in str(error)
        else:
            refused += 1000
    assert refused % 1000 + refused // 1000 == 60
    assert refused % 1000 > 10
