"""Codes over time: every clip is in a bar, idle hours are shown, long runs are shown by day."""

from collections.abc import Mapping

from pipelines.report.timeline import NAMED_CODES, OTHERS, colours, timelines
from pipelines.run.ledger import Tally
from pipelines.run.status import StageStatus


def status(hours: Mapping[str, Mapping[str, int]], stage: str = "fetch") -> StageStatus:
    return StageStatus(stage=stage, units=1, units_done=1, tally=Tally(), seconds=0.0, bytes=0, hours=hours)


def test_idle_hours_have_empty_bars_on_one_axis_for_all_stages() -> None:
    first, second = timelines(
        [
            status({"2026-11-25T22": {"ok": 3, "dns": 1}, "2026-11-26T01": {"ok": 8}}),
            status({"2026-11-26T00": {"ok": 2}}, "clip"),
        ]
    )

    assert [(bar.begin, bar.clips) for bar in first.bars] == [
        ("2026-11-25 22:00", 4),
        ("2026-11-25 23:00", 0),
        ("2026-11-26 00:00", 0),
        ("2026-11-26 01:00", 8),
    ]
    assert [(part.code, part.percent) for part in first.bars[0].parts] == [("ok", 37.5), ("dns", 12.5)]
    assert [bar.clips for bar in second.bars] == [0, 0, 2, 0]


def test_a_run_of_weeks_is_shown_by_day() -> None:
    (line,) = timelines([status({"2026-11-01T05": {"ok": 1}, "2026-11-01T06": {"ok": 1}, "2026-11-20T01": {"ok": 5}})])

    assert len(line.bars) == 20
    assert (line.bars[0].begin, line.bars[0].clips, line.highest) == ("2026-11-01", 2, 5)


def test_rare_codes_share_a_colour_and_none_is_lost() -> None:
    codes = ["dns", "tls", "timeout", "private", "removed", "live", "age", "region"]
    hours = {"2026-11-25T22": {"ok": 1, **{code: 10 + place for place, code in enumerate(codes)}}}

    (line,) = timelines([status(hours)])

    assert colours([status(hours)]) == ["ok", *reversed(codes[-NAMED_CODES:])]
    assert sum(part.clips for part in line.bars[0].parts) == line.bars[0].clips == 109
    assert line.bars[0].parts[-1].code == OTHERS


def test_commit_markers_without_hours_give_no_chart() -> None:
    assert timelines([status({})]) == []
