"""A table of a paper from a sampler: arms, seeds, what is sampled again, paired differences, printed rows."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.small_evaluation import PROTOCOL, small_extractors, small_protocol, write_clips
from uniform.errors import ConfigError, InputError
from uniform.evaluation.paired import compare
from uniform.evaluation.paper_tables import (
    PaperTable,
    WantedSample,
    beside_paper,
    clip_seed,
    make_tables,
    sample_name,
    wanted_samples,
)
from uniform.evaluation.run import Evaluation, Options, evaluate
from uniform.evaluation.sets import read_set

COUNT = 8
SAMPLING = """
[sampling]
tasks = ["v2a"]
text = [false, true]
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real clips, good samples of them and bad ones."""
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder / "real", COUNT)
    write_clips(folder / "good", COUNT, noise=3)
    write_clips(folder / "bad", COUNT, noise=60)
    lines = [{"clip_id": f"clip/{n}", "path": f"clip-{n:03d}.mp4", "label": f"ball {n}"} for n in range(COUNT)]
    (folder / "real" / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return {name: folder / name for name in ("real", "good", "bad")}


class Copier:
    """A sampler that copies: good samples where there is text, bad ones where there is none."""

    def __init__(self, clips: dict[str, Path]) -> None:
        self._clips = clips
        self.asked: list[WantedSample] = []
        self.made = 0

    def __call__(self, wanted: Sequence[WantedSample], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.asked += wanted
        for one in wanted:
            assert one.media is not None
            path = folder / f"{one.name}.mp4"
            if not path.exists():
                shutil.copy(self._clips["good" if one.text else "bad"] / one.media.name, path)
                self.made += 1


def _tables(clips: dict[str, Path], out: Path, sampler: Any, **options: Any) -> PaperTable:
    protocol = small_protocol(out, PROTOCOL.replace("[paper]", f"{SAMPLING}[paper]"))
    return make_tables(
        protocol,
        clips["real"] / "list.jsonl",
        out,
        sampler,
        Options(workers=1),
        progress=lambda *state: None,
        given=small_extractors(),
        **options,
    )


def test_both_arms_share_clips_and_noise_and_are_compared_clip_by_clip(clips: dict[str, Path], tmp_path: Path) -> None:
    sampler = Copier(clips)
    made = _tables(clips, tmp_path, sampler)

    without, with_text = sampler.asked[:COUNT], sampler.asked[COUNT:]
    assert [one.seed for one in without] == [one.seed for one in with_text]
    assert len({one.seed for one in without}) == COUNT
    assert [one.text for one in with_text] == [f"ball {n}" for n in range(COUNT)]
    assert {one.text for one in without} == {None}
    difference = {one.metric: one for one in made.differences["v2a"]}
    assert difference["fd_yamnet"].difference < 0
    assert difference["fd_yamnet"].better == "second"
    assert difference["av_align_brightness_v2"].clips == COUNT
    for one in difference.values():
        assert one.difference == pytest.approx(one.second - one.first)
        assert one.low <= one.difference <= one.high or not np.isfinite(one.low)


def test_a_second_call_samples_nothing_and_reads_nothing(clips: dict[str, Path], tmp_path: Path) -> None:
    first, second = Copier(clips), Copier(clips)
    _tables(clips, tmp_path, first)
    made = _tables(clips, tmp_path, second)

    assert (first.made, second.made) == (2 * COUNT, 0)
    assert all(arm.evaluation.times.decoded == 0 for arm in made.arms)


def test_the_printed_rows_stand_beside_ours(clips: dict[str, Path], tmp_path: Path) -> None:
    made = _tables(clips, tmp_path, Copier(clips))
    columns, rows = beside_paper(made, made.arms[0].evaluation.protocol)

    assert columns[1] == "FD (fd_yamnet)"
    labels = [row[0] for row in rows]
    assert labels == [
        "v2a-no-text",
        "v2a-no-text: real vs real",
        "v2a-text",
        "v2a-text: real vs real",
        "printed: Other",
    ]
    assert rows[-1][1] == "1.5"
    assert f"N {COUNT}" in rows[0][1]


def test_an_arm_with_text_wants_text_for_every_clip(clips: dict[str, Path]) -> None:
    real = read_set(clips["real"], "real")
    with pytest.raises(InputError, match=f"{COUNT} of {COUNT} real clips have neither text nor label"):
        wanted_samples(real, "v2a", text=True, seed=0)
    assert len(wanted_samples(real, "v2a", text=False, seed=0)) == COUNT
    with pytest.raises(InputError, match="t2av starts from text"):
        wanted_samples(real, "t2av", text=False, seed=0)


def test_t2av_is_given_no_media(clips: dict[str, Path]) -> None:
    wanted = wanted_samples(read_set(clips["real"] / "list.jsonl", "real"), "t2av", text=True, seed=0)
    assert {(one.media, one.start_ms) for one in wanted} == {(None, 0)}


def test_tasks_and_protocols_that_sample_nothing_are_refused(clips: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="samples v2a; not a2v"):
        _tables(clips, tmp_path, Copier(clips), tasks=["a2v"])
    with pytest.raises(ConfigError, match=r"no \[sampling\] table"):
        make_tables(
            small_protocol(tmp_path),
            clips["real"],
            tmp_path,
            Copier(clips),
            Options(),
            progress=lambda *state: None,
        )


def test_names_are_plain_and_differ_where_ids_do() -> None:
    ids = ["a", "a/b", "a_b", "../../etc", "", ".x", "x" * 500, "é"]
    found = [sample_name(clip_id) for clip_id in ids]

    assert found[0] == "a"
    assert len(set(found)) == len(ids)
    assert all(name == Path(name).name and not name.startswith(".") and len(name) < 120 for name in found)


def test_seeds_depend_on_clip_and_seed_alone() -> None:
    assert clip_seed("a", 0) == clip_seed("a", 0)
    assert len({clip_seed("a", 0), clip_seed("a", 1), clip_seed("b", 0)}) == 3


def _evaluation(clips: dict[str, Path], side: str, folder: Path) -> Evaluation:
    return evaluate(
        clips[side],
        clips["real"],
        small_protocol(folder),
        Options(workers=1),
        progress=lambda *state: None,
        given=small_extractors(),
    )


def test_a_set_does_not_differ_from_itself_and_order_turns_the_sign(clips: dict[str, Path], tmp_path: Path) -> None:
    good, bad = (_evaluation(clips, side, tmp_path) for side in ("good", "bad"))

    for one in compare(good, good):
        assert (one.difference, one.low, one.high, one.better) == (0.0, 0.0, 0.0, "not resolved")
    ahead, back = ({one.metric: one for one in compare(*sides)} for sides in ((good, bad), (bad, good)))
    assert ahead["kad_yamnet"].better == "first"
    assert back["kad_yamnet"].better == "second"
    assert ahead["kad_yamnet"].difference == pytest.approx(-back["kad_yamnet"].difference)


def test_two_protocols_are_not_compared(clips: dict[str, Path], tmp_path: Path) -> None:
    good = _evaluation(clips, "good", tmp_path)
    (tmp_path / "other").mkdir()
    other = evaluate(
        clips["good"],
        clips["real"],
        small_protocol(tmp_path / "other", f"{PROTOCOL}# other\n"),
        Options(workers=1),
        progress=lambda *state: None,
        given=small_extractors(),
    )
    with pytest.raises(InputError, match="two protocols"):
        compare(good, other)
