"""What an evaluation leaves behind: result.json, clips.parquet, index.html.

Equal inputs give equal bytes but for times: what differs from run to run stands under "times" in result.json, and in
run.json.
"""

import json
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from uniform import __version__
from uniform.atomic import replacing, write_bytes
from uniform.evaluation.measures import from_pairs
from uniform.evaluation.page import write_page
from uniform.evaluation.records import ClipRecord, Side
from uniform.evaluation.run import Evaluation
from uniform.fingerprint import digest

SCHEMA = 1
RESULT_NAME, CLIPS_NAME, PAGE_NAME, RUN_NAME = "result.json", "clips.parquet", "index.html", "run.json"
_LIBRARIES = ("numpy", "scipy", "torch", "torchaudio", "av", "librosa", "opencv-python-headless")


def write_result(evaluation: Evaluation, out: Path, started: str) -> dict[str, Any]:
    """Write every file of an evaluation into `out`, and return what stands in result.json.

    Args:
        started: time of day, for the record.
    """
    result = as_json(evaluation)
    result["times"] = {"started": started, "wall_s": round(evaluation.wall_s, 3)}
    _write_clips(evaluation, out / CLIPS_NAME)
    write_page(result, evaluation, out / PAGE_NAME)
    write_bytes(out / RUN_NAME, _bytes(_run(evaluation)))
    write_bytes(out / RESULT_NAME, _bytes(result))
    return result


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """The record of an evaluation, plain values, without its times."""
    file, protocol = evaluation.protocol, evaluation.protocol.protocol
    sides: Mapping[Side, tuple[ClipRecord, ...]] = {
        "generated": evaluation.generated,
        "real": evaluation.real,
        **({"reference": evaluation.reference} if evaluation.reference else {}),
    }
    return {
        "schema": SCHEMA,
        "protocol": {"name": file.name, "digest": file.digest, "title": protocol.title, "text": file.text},
        "sets": {side: _set(records, evaluation.places[side], protocol.reading.fps) for side, records in sides.items()},
        "expected_clips": protocol.sets.expected_clips,
        "metrics": {
            metric.name: {
                "column": protocol.column(metric.name),
                "better": metric.better,
                "answers": metric.answers,
                "form": metric.form,
                "extractor": metric.extractor,
            }
            for metric in protocol.chosen
        },
        "unavailable": dict(evaluation.plan.unavailable),
        "rows": {
            row: {name: cell.as_json() for name, cell in cells.items()} for row, cells in evaluation.table.cells.items()
        },
        "names": {
            metric.name: f"{metric.name}@{cell.clips}"
            for metric in evaluation.metrics
            if (cell := evaluation.table.cells["generated"].get(metric.name)) is not None
        },
        "paper": None if protocol.paper is None else asdict(protocol.paper),
        "weights": [asdict(record) for record in evaluation.plan.weights],
        "features": {
            f"{name}@{frames or 'all'}": stream.key
            for (name, frames), stream in sorted(
                evaluation.plan.streams.items(), key=lambda item: (item[0][0], item[0][1] or 0)
            )
        },
        "codec": evaluation.codec or None,
        "device": evaluation.device,
        "seeds": {"statistics": protocol.statistics.seed, "draws": protocol.statistics.draws},
        "versions": _versions(),
        "drops": {
            "counts": {
                side: dict(sorted(Counter(record.drop.code for record in records if record.drop is not None).items()))
                for side, records in sides.items()
            },
            "clips": [asdict(drop) for drop in evaluation.drops],
        },
    }


def _set(records: tuple[ClipRecord, ...], place: str, fps: float) -> dict[str, Any]:
    kept = [record for record in records if record.drop is None]
    other = [record for record in kept if record.state.fps is not None and abs(record.state.fps - fps) > 0.01]
    return {
        "place": place,
        "files": len(records),
        "clips": len({record.clip.clip_id for record in kept}),
        "samples": len(kept),
        "digest": digest(sorted(f"{record.clip.clip_id}/{record.clip.sample}/{record.content}" for record in kept)),
        "silent": sum(record.silent for record in kept),
        "frozen": sum(record.frozen for record in kept),
        "other_fps": len(other),
    }


def _versions() -> dict[str, str]:
    found = {"uniform": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _run(evaluation: Evaluation) -> dict[str, Any]:
    times = evaluation.times
    busy = times.networks_s + times.waited_s
    return {
        "media_files_read": times.decoded,
        "stages_s": {name: round(seconds, 3) for name, seconds in evaluation.stage_s.items()},
        "networks_s": round(times.networks_s, 3),
        "waited_for_decoding_s": round(times.waited_s, 3),
        "wait_share": round(times.waited_s / busy, 4) if busy else 0.0,
        "failed_now": {content: list(why) for content, why in times.failed.items()},
    }


def _write_clips(evaluation: Evaluation, path: Path) -> None:
    """One row a clip of both sides: what was found, every score, onsets and motion."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    scored = {metric.name: evaluation.table.clip_scores.get(metric.name, {}) for metric in evaluation.metrics}
    rows = []
    for side, records in (("generated", evaluation.generated), ("real", evaluation.real)):
        for record in records:
            alignment = evaluation.alignment.get(record.member, {}) if side == "generated" else {}
            row: dict[str, Any] = {
                "side": side,
                "clip_id": record.clip.clip_id,
                "sample": record.clip.sample,
                "path": str(record.clip.path),
                "start_ms": record.clip.start_ms,
                "sha256": record.state.sha256,
                "text": record.clip.text,
                "duration_s": record.state.duration_s,
                "fps": record.state.fps,
                "code": "ok" if record.drop is None else record.drop.code,
                "reason": "" if record.drop is None else record.drop.reason,
                "rms_dbfs": record.rms_dbfs,
                "motion": record.motion,
                "onsets_s": _list(alignment.get("onsets_s")),
                "motion_curve": _list(alignment.get("flow_px", alignment.get("motion"))),
            }
            for name, scores in scored.items():
                if evaluation.table.clip_scores.get(name) is not None:
                    row[name] = scores.get(record.member) if side == "generated" else None
            rows.append(row)
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=_schema(pa, rows)), temporary)


def _schema(pa: Any, rows: list[dict[str, Any]]) -> Any:
    numbers = pa.float64()
    texts = ("side", "clip_id", "path", "sha256", "text", "code", "reason")
    kinds = {name: pa.string() for name in texts} | {"sample": pa.int64(), "start_ms": pa.int64()}
    kinds |= {name: pa.list_(numbers) for name in ("onsets_s", "motion_curve")}
    return pa.schema([(name, kinds.get(name, numbers)) for name in (rows[0] if rows else {})])


def _list(pairs: Any) -> list[float] | None:
    return None if pairs is None else from_pairs(pairs).tolist()


def _bytes(value: Any) -> bytes:
    return f"{json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)}\n".encode()
