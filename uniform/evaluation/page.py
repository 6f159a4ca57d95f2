"""index.html of an evaluation: tables with the floor shaded, bars, players of the worst and best clips, every clip."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from uniform.atomic import write_bytes
from uniform.evaluation.html import STYLE, policy, relative_url, render
from uniform.evaluation.measures import from_pairs
from uniform.evaluation.metric_names import Metric
from uniform.evaluation.records import ClipRecord

if TYPE_CHECKING:
    from uniform.evaluation.run import Evaluation

MAX_SHOWN_CLIPS = 5_000
MAX_SHOWN_DROPS = 500
PLAYERS = 12
ROWS: Mapping[str, tuple[str, str]] = {
    "generated": ("generated", "samples against real clips"),
    "real": ("real", "real clips by themselves"),
    "reference": ("real vs reference", "real clips against the reference set"),
    "generated_reference": ("generated vs ref.", "samples against the reference set"),
    "real_halves": ("real vs real", "two halves of the real clips: the floor"),
    "codec": ("codec", "real clips after the codecs"),
    "shuffled": ("shuffled", "pairs exchanged: chance"),
    "worst": ("worst", "real clips frozen and silent"),
}
"""Label and meaning of each row."""
SCRIPT = """
document.querySelectorAll("th[data-column]").forEach(function (head) {
  head.addEventListener("click", function () {
    var column = Number(head.dataset.column), body = document.querySelector("#clips tbody");
    var up = head.dataset.up !== "1"; head.dataset.up = up ? "1" : "0";
    var rows = Array.from(body.rows).map(function (row) { return [row.cells[column].textContent, row]; });
    rows.sort(function (a, b) {
      var x = parseFloat(a[0]), y = parseFloat(b[0]);
      if (isNaN(x) || isNaN(y)) { return isNaN(x) && isNaN(y) ? a[0].localeCompare(b[0]) * (up ? 1 : -1) : isNaN(x) - isNaN(y); }
      return up ? x - y : y - x;
    });
    rows.forEach(function (pair) { body.appendChild(pair[1]); });
  });
});
"""  # noqa: E501 - a script
_LEFT_PX, _WIDTH_PX, _BAR_PX = 96, 230, 22


def write_page(result: Mapping[str, Any], evaluation: "Evaluation", path: Path) -> None:
    """Write the page of an evaluation; `result` is what stands in result.json."""
    protocol = evaluation.protocol.protocol
    names = [metric.name for metric in evaluation.metrics]
    paper = result["paper"]
    drops = result["drops"]["clips"]
    shown = evaluation.generated[:MAX_SHOWN_CLIPS]
    page = render(
        "evaluation.html.j2",
        policy=policy(SCRIPT),
        style=STYLE,
        script=SCRIPT,
        title=protocol.title,
        about=protocol.about.strip(),
        protocol=evaluation.protocol.name,
        protocol_digest=evaluation.protocol.digest,
        sets=[{"side": side, **values} for side, values in result["sets"].items()],
        expected=protocol.sets.expected_clips,
        n=result["sets"]["generated"]["clips"],
        metrics=[{"name": name, **result["metrics"][name]} for name in names],
        rows=[_row(row, result["rows"][row], names) for row in evaluation.rows if result["rows"][row]],
        paper=paper,
        paper_rows=[]
        if paper is None
        else [
            {"model": row["model"], "values": [_number(row["values"].get(protocol.column(name))) for name in names]}
            for row in paper["rows"]
        ],
        unavailable=sorted(result["unavailable"].items()),
        charts=[chart(name, result) for name in names],
        players=_players(evaluation, path.parent),
        clip_columns=["clip", "sample", *_scored(evaluation), "RMS dBFS", "motion", "state"],
        clips=[_clip(evaluation, record) for record in shown],
        more_clips=len(evaluation.generated) if len(evaluation.generated) > len(shown) else 0,
        drops=drops[:MAX_SHOWN_DROPS],
        more_drops=max(0, len(drops) - MAX_SHOWN_DROPS),
        weights=result["weights"],
        versions=sorted(result["versions"].items()),
        device=result["device"],
    )
    write_bytes(path, page.encode())


def _row(row: str, cells: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    label, about = ROWS[row]
    return {"kind": row, "label": label, "about": about, "cells": [_cell(cells.get(name)) for name in names]}


def _cell(cell: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if cell is None:
        return None
    carried, at_floor = cell.get("extrapolated"), cell.get("at_floor")
    vectors = cell.get("vectors", 0)
    return {
        "value": None if cell["value"] is None else _number(cell["value"]),
        "interval": _interval(cell),
        "n": f"{cell.get('clips', 0):,}" + (f" ({vectors:,} vectors)" if vectors not in (0, cell.get("clips")) else ""),
        "extrapolated": carried
        and f"{_number(carried['value'])} {_interval(carried)}, R² {_number(carried['r_squared'])}",
        "at_floor": at_floor and f"{_number(at_floor['value'])} {_interval(at_floor)}",
        "unresolved": cell.get("resolved") is False,
        "notes": cell.get("notes", []),
    }


def chart(name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """Bars of one metric over the rows, as SVG numbers."""
    cells = {row: result["rows"][row][name] for row in ROWS if name in result["rows"].get(row, {})}
    cells = {row: cell for row, cell in cells.items() if cell["value"] is not None}
    ends = [cell.get(key) for cell in cells.values() for key in ("value", "low", "high")]
    known = [end for end in ends if end is not None] or [0.0]
    low, high = min(0.0, *known), max(0.0, *known)
    scale = _WIDTH_PX / (high - low) if high > low else 0.0

    def x(value: float) -> float:
        return float(round(_LEFT_PX + (value - low) * scale, 1))

    bars = []
    for number, (row, cell) in enumerate(cells.items()):
        value = cell["value"]
        begin, end = sorted((x(0.0), x(value)))
        has_interval = cell.get("low") is not None and cell.get("high") is not None
        bars.append(
            {
                "label": ROWS[row][0],
                "kind": row,
                "y": 4 + number * _BAR_PX,
                "x": begin,
                "width": max(1.0, round(end - begin, 1)),
                "low": x(cell["low"]) if has_interval else None,
                "high": x(cell["high"]) if has_interval else None,
                "text_x": max(end, x(cell["high"]) if has_interval else end) + 6,
                "value": _number(value),
            }
        )
    return {
        "name": name,
        "answers": result["metrics"][name]["answers"],
        "height": 8 + _BAR_PX * max(1, len(bars)),
        "zero": x(0.0) if low < 0 else None,
        "bars": bars,
    }


def _scored(evaluation: "Evaluation") -> list[str]:
    return [metric.name for metric in evaluation.metrics if metric.name in evaluation.table.clip_scores]


def _clip(evaluation: "Evaluation", record: ClipRecord) -> list[str]:
    scores = [evaluation.table.clip_scores[name].get(record.member) for name in _scored(evaluation)]
    state = "ok" if record.drop is None else record.drop.code
    if record.silent or record.frozen:
        state += ", silent" * record.silent + ", frozen" * record.frozen
    numbers = [*scores, record.rms_dbfs, record.motion]
    return [record.clip.clip_id, str(record.clip.sample), *(_number(value) for value in numbers), state]


def _players(evaluation: "Evaluation", folder: Path) -> list[dict[str, Any]]:
    """The worst and the best clips of the first metric that scores clips; without one, the first clips."""
    kept = {record.member: record for record in evaluation.generated if record.drop is None}
    real = {record.clip.clip_id: record for record in evaluation.real if record.drop is None}
    scored = [metric for metric in evaluation.metrics if metric.name in _scored(evaluation)]
    if not scored:
        shown = [_player(evaluation, record, "", real, folder) for record in list(kept.values())[:PLAYERS]]
        return [{"title": "First clips", "clips": shown}] if shown else []
    metric = scored[0]
    ordered = _worst_first(metric, evaluation.table.clip_scores[metric.name])
    groups = [("Worst", ordered[:PLAYERS]), ("Best", ordered[::-1][:PLAYERS])]
    return [
        {
            "title": f"{title} by {metric.name}",
            "clips": [_player(evaluation, kept[m], f"{value:.3g}", real, folder) for m, value in chosen if m in kept],
        }
        for title, chosen in groups
        if chosen
    ]


def _worst_first(metric: Metric, scores: Mapping[tuple[str, int], float]) -> list[tuple[tuple[str, int], float]]:
    return sorted(scores.items(), key=lambda item: (item[1] if metric.better == "higher" else -item[1], item[0]))


def _player(
    evaluation: "Evaluation", record: ClipRecord, score: str, real: Mapping[str, ClipRecord], folder: Path
) -> dict[str, Any]:
    partner = real.get(record.clip.clip_id) if evaluation.protocol.protocol.sets.same_clips else None
    alignment = evaluation.alignment.get(record.member)
    curve, onsets = "", []
    if alignment is not None:
        amount = from_pairs(alignment.get("flow_px", alignment.get("motion", np.zeros((1, 2)))))
        top = float(amount.max()) or 1.0
        steps = max(1, len(amount) - 1)
        curve = " ".join(f"{240 * i / steps:.1f},{42 - 40 * float(v) / top:.1f}" for i, v in enumerate(amount))
        duration_s = evaluation.protocol.protocol.reading.duration_s
        onsets = [round(240 * float(time) / duration_s, 1) for time in from_pairs(alignment["onsets_s"])]
    return {
        "name": record.clip.clip_id,
        "score": score,
        "text": record.clip.text,
        "url": relative_url(record.clip.path, folder),
        "real_url": None if partner is None else relative_url(partner.clip.path, folder),
        "curve": curve,
        "onsets": onsets,
    }


def _interval(cell: Mapping[str, Any]) -> str:
    if cell.get("low") is None or cell.get("high") is None:
        return ""
    return f"[{_number(cell['low'])}, {_number(cell['high'])}]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
