"""Protocols are data, read strictly; names carry definitions; the paper's rows stand in them as printed."""

from pathlib import Path

import pytest

from tests.support.small_evaluation import PROTOCOL, small_protocol
from uniform.errors import ConfigError
from uniform.evaluation.metric_names import metric_by_name, metric_names, needs_audio, needs_video
from uniform.evaluation.protocol import read_protocol, shipped_protocols

SHIPPED = (
    "av_benchmark_8s",
    "javisbench_4s",
    "offline",
    "table1_v2a_vggsound",
    "table2_a2v_landscape",
    "table3_t2av_landscape",
    "table4_text_ablation",
    "training",
)


def test_the_shipped_protocols_are_these() -> None:
    assert shipped_protocols() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_protocol_reads_and_its_columns_have_printed_numbers(name: str) -> None:
    protocol = read_protocol(name).protocol

    assert protocol.chosen
    columns = {choice.column for choice in protocol.metrics}
    for row in protocol.paper.rows if protocol.paper else ():
        assert set(row.values) <= columns, row.model


def test_the_papers_own_rows_are_as_printed() -> None:
    def ours(name: str) -> dict[str, float]:
        paper = read_protocol(name).protocol.paper
        assert paper is not None
        return next(row.values for row in paper.rows if row.model == "UniForm")

    assert ours("table1_v2a_vggsound") == {"FAD": 1.3, "FD": 6.21, "IS": 14.68, "KL": 2.66}
    assert ours("table2_a2v_landscape") == {"FVD": 319.0, "IS": 4.61, "AV-Align": 0.51}
    assert ours("table3_t2av_landscape") == {"FVD": 326.0, "KVD": 22.8, "FAD": 5.61, "AV-Align": 0.30}


def test_the_contradiction_of_tables_2_and_4_is_said() -> None:
    for name in ("table2_a2v_landscape", "table4_text_ablation"):
        paper = read_protocol(name).protocol.paper
        assert paper is not None
        assert any(("Table" in line and "521" in line) or "319" in line for line in paper.open_questions), name


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("fps = 17", "fpss = 17", "unknown key 'reading.fpss'"),
        ("[reading]", "extra = 1\n[reading]", "unknown key 'extra'"),
        ('name = "fd_yamnet"', 'name = "fd_yamnett"', "did you mean 'fd_yamnet'"),
        ('name = "kad_yamnet"', 'name = "fd_yamnet"', "fd_yamnet more than once"),
        ("size_px = 64", "size_px = 63", "multiple of 8"),
        ("draws = 200", "draws = 0", "draws is 0"),
        ("duration_s = 2", "duration_s = 2.5", "a whole number"),
        ("fd_transnetv2_16f", "fd_transnetv2_99f", "wants 99 frames; a clip has 34"),
        ("fd_transnetv2_16f", "fd_yamnet_16f", "there is no metric 'fd_yamnet_16f'"),
        ("fd_transnetv2_16f", "desync_avb", "needs clips of 4.8 s or more"),
    ],
)
def test_a_wrong_protocol_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in PROTOCOL
    with pytest.raises(ConfigError, match=message):
        small_protocol(tmp_path, PROTOCOL.replace(old, new, 1))


def test_an_unknown_protocol_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'offline'"):
        read_protocol("offlin")


def test_the_digest_follows_the_text_and_the_chosen_metrics(tmp_path: Path) -> None:
    whole = small_protocol(tmp_path)
    path = str(tmp_path / "small.toml")
    some = read_protocol(path, ("kad_yamnet", "fd_cnn14_16k"))

    assert read_protocol(path).digest == whole.digest
    assert len({whole.digest, some.digest, small_protocol(tmp_path, f"{PROTOCOL}# more\n").digest}) == 3
    assert [metric.name for metric in some.protocol.chosen] == ["kad_yamnet", "fd_cnn14_16k"]


def test_every_metric_has_a_known_network_and_answers_a_question() -> None:
    for name in metric_names():
        metric = metric_by_name(name)
        assert needs_video(metric) or needs_audio(metric)
        assert metric.answers
    assert metric_by_name("fvd_i3d_sgv_16f").variant == "n"
    assert metric_by_name("fvd_i3d_tats_16f").variant == "n-1"
    assert metric_by_name("fvd_i3d_tats_16f").frames == 16


def test_no_offline_name_can_be_taken_for_a_published_metric() -> None:
    for name in metric_names():
        if metric_by_name(name).extractor in ("yamnet", "effnet_lite0", "transnetv2"):
            assert not name.startswith(("fad_", "fvd_", "kvd_", "fid_"))
