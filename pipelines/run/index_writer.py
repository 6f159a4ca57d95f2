"""Close a run: index.parquet and card.json from what the units' commits left, always the same bytes.

Nothing is read but commit markers, ledger parts and member tables; the shards themselves were verified when they were
written. An older card goes, then the index comes, then the card: a folder with a card is whole, and the two agree.
"""

import filecmp
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.recipe import Recipe, StageStep
from pipelines.run.folder import RunFolder
from pipelines.run.ledger import OK, Tally
from pipelines.run.plan import PlanBuilder
from pipelines.run.status import live_rows
from pipelines.run.units import Units
from uniform.atomic import replacing
from uniform.errors import PipelineError, ShardError
from uniform.fingerprint import digest
from uniform.latents.format import (
    AUDIO_MEMBER,
    AUDIO_STD_MEMBER,
    INDEX_SCHEMA,
    LATENTS,
    META_MEMBER,
    STDEV,
    TEXT_MEMBER,
    VIDEO_MEMBER,
    VIDEO_STD_MEMBER,
    Card,
    ids_digest,
    shard_name,
    text_column,
)
from uniform.spec import long_spec

_COLUMNS = {"video": VIDEO_MEMBER, "audio": AUDIO_MEMBER, "meta": META_MEMBER}
_STDEV_COLUMNS = {"stdev_video": VIDEO_STD_MEMBER, "stdev_audio": AUDIO_STD_MEMBER}
_TEXT_PREFIX = text_column("")


@dataclass
class _Sums:
    """Per-channel sums of one modality over all indexed clips, in the order of the index."""

    values: int = 0
    parts: list[Any] = field(default_factory=list)

    def add(self, members: Sequence[Mapping[str, Any]]) -> None:
        """Add one unit's rows of the member table."""
        self.values += sum(member["values"] for member in members)
        sums, squares = (np.array([member[name] for member in members]).sum(axis=0) for name in ("sums", "squares"))
        self.parts.append((sums, squares))

    def statistics(self) -> dict[str, list[float]]:
        """Mean and standard deviation per channel."""
        sums, squares = (np.sum([part[which] for part in self.parts], axis=0) for which in (0, 1))
        mean = sums / self.values
        deviation = np.sqrt(np.maximum(squares / self.values - mean**2, 0.0))
        return {"mean": mean.tolist(), "std": deviation.tolist()}


@dataclass(frozen=True)
class _Tars:
    """The recipe's stages whose tars the index names."""

    latents: StageStep
    stdev: StageStep | None
    texts: Mapping[str, StageStep]
    """By caption set, in the order of the sets' names."""


def _tars(recipe: Recipe) -> _Tars | None:
    by_store = {i.stage.store.name: i for i in recipe.instances if i.stage.store.kind == "tar"}
    if LATENTS not in by_store:
        return None
    missing = [member for member in _COLUMNS.values() if member not in by_store[LATENTS].stage.gives]
    if missing:
        raise PipelineError(f"stage '{by_store[LATENTS].name}' keeps '{LATENTS}' but gives no {', '.join(missing)}")
    texts = {
        name.removeprefix(_TEXT_PREFIX): instance
        for name, instance in sorted(by_store.items())
        if name.startswith(_TEXT_PREFIX) and TEXT_MEMBER in instance.stage.gives
    }
    return _Tars(by_store[LATENTS], by_store.get(STDEV), texts)


def indexed_units(folder: RunFolder) -> set[int]:
    """Units that the index names; none where there is no index, all where it cannot be read."""
    try:
        return set(pq.read_table(folder.index, columns=["unit"])["unit"].to_pylist())
    except FileNotFoundError:
        return set()
    except (OSError, pa.ArrowException):
        return set(range(1_000_000))


def close_index(folder: RunFolder, recipe: Recipe, units: Units, plan_builder: PlanBuilder, final: Tally) -> int | None:
    """Write index.parquet and card.json for the clips that every stage kept.

    Returns: clips in the index; None where the recipe makes no latents, or no clip is left.
    Raises: ShardError where a unit's member table contradicts its ledger.
    """
    tars = _tars(recipe)
    if tars is None or not final.kept:
        return None
    sums = {"video": _Sums(), "audio": _Sums()}
    facts = _Facts(windows=int(plan_builder.provenance(tars.latents).get("windows", 1)))
    with replacing(folder.index) as temporary:
        with pq.ParquetWriter(temporary, INDEX_SCHEMA, compression="zstd") as writer:
            for commit, table in live_rows(folder, recipe.instances[-1].name, units, ["clip_id", "code"]):
                pairs = zip(table["clip_id"].to_pylist(), table["code"].to_pylist(), strict=True)
                kept = [clip_id for clip_id, code in pairs if code == OK]
                if kept:
                    writer.write_table(_unit_rows(folder, recipe, tars, units, commit.unit, kept, sums, facts))
        if not (folder.index.exists() and filecmp.cmp(temporary, folder.index, shallow=False)):
            folder.card.unlink(missing_ok=True)  # a kill from here on leaves no card, rather than an older one
    card = Card(
        spec=recipe.spec.as_dict(),
        video=_codec(plan_builder, tars.latents, "video"),
        audio=_codec(plan_builder, tars.latents, "audio"),
        texts={name: _text_card(plan_builder, recipe, instance) for name, instance in tars.texts.items()},
        datasets=tuple(sorted(facts.datasets)),
        clips=len(facts.clip_ids),
        counts=dict(final.codes),
        statistics={modality: one.statistics() for modality, one in sums.items()},
        ids_digest=ids_digest(facts.clip_ids),
        licences=tuple(sorted(facts.licences)),
        windows=facts.windows,
    )
    card.write(folder.path)
    return len(facts.clip_ids)


@dataclass
class _Facts:
    windows: int
    """Windows of each clip; a stage that keeps the latents of longer clips says it in its provenance."""
    clip_ids: list[str] = field(default_factory=list)
    datasets: set[str] = field(default_factory=set)
    licences: set[str] = field(default_factory=set)


def _unit_rows(
    folder: RunFolder,
    recipe: Recipe,
    tars: _Tars,
    units: Units,
    unit: int,
    kept: list[str],
    sums: Mapping[str, _Sums],
    facts: _Facts,
) -> pa.Table:
    places = _places(_members(folder, tars.latents, unit), shard_name(LATENTS, unit), _COLUMNS.values(), kept)
    for modality, member in (("video", VIDEO_MEMBER), ("audio", AUDIO_MEMBER)):
        sums[modality].add([places[clip_id, member] for clip_id in kept])
    columns = dict(_COLUMNS)
    if tars.stdev is not None:
        stdev = _members(folder, tars.stdev, unit)
        places |= _places(stdev, shard_name(STDEV, unit), _STDEV_COLUMNS.values(), kept)
        columns |= _STDEV_COLUMNS
    texts = {
        name: _places(_members(folder, one, unit), shard_name(text_column(name), unit), [TEXT_MEMBER], kept)
        for name, one in tars.texts.items()
    }
    by_id = {row.clip_id: row for row in units.rows(unit)}
    frames = long_spec(recipe.spec, facts.windows).frames
    rows = []
    for clip_id in kept:
        row = by_id[clip_id]
        rows.append(
            {
                "clip_id": clip_id,
                "dataset": row.dataset,
                "split": row.split,
                "unit": unit,
                **{column: _place(places[clip_id, member]) for column, member in columns.items()},
                "start_ms": row.start_ms,
                "frames": frames,
                "has_audio": True,  # a clip without sound left the road as no_audio
                "texts": [_text_place(name, found[clip_id, TEXT_MEMBER]) for name, found in texts.items()],
            }
        )
        facts.clip_ids.append(clip_id)
        facts.datasets.add(row.dataset)
        facts.licences |= {row.license} if row.license else set()
    return pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)


def _members(folder: RunFolder, instance: StageStep, unit: int) -> pa.Table:
    path = folder.members(instance.name, unit)
    try:
        return pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise ShardError(
            f"{path}: cannot be read ({error}). Remove {folder.commit(instance.name, unit)} and run again."
        ) from error


def _places(
    members: pa.Table, shard: str, fields: Iterable[str], kept: list[str]
) -> dict[tuple[str, str], dict[str, Any]]:
    found = {(row["clip_id"], row["field"]): {**row, "shard": shard} for row in members.to_pylist()}
    wanted = [(clip_id, name) for name in fields for clip_id in kept]
    missing = next((key for key in wanted if key not in found), None)
    if missing:
        raise ShardError(f"{shard}: kept clip {missing[0]} has no member '{missing[1]}'; a member table was exchanged")
    return {key: found[key] for key in wanted}


def _place(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("shard", "offset", "bytes", "crc32")}


def _text_place(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {"set": name, **_place(row), "tokens": row["tokens"]}


def _codec(plan_builder: PlanBuilder, instance: StageStep, kind: str) -> Mapping[str, Any]:
    told = plan_builder.provenance(instance)
    if kind not in told or "fingerprint" not in told[kind]:
        raise PipelineError(
            f"stage '{instance.name}' keeps '{instance.stage.store.name}', so its provenance must give the card of its "
            f"codec under '{kind}' (CodecCard.as_dict())"
        )
    card: Mapping[str, Any] = told[kind]
    return card


def _text_card(plan_builder: PlanBuilder, recipe: Recipe, instance: StageStep) -> dict[str, Any]:
    captions = [plan_builder.provenance(giver) for giver in recipe.producers(instance.name).values()]
    made_by = captions[0] if captions else {}
    return {"codec": _codec(plan_builder, instance, "text"), "captions": digest(made_by), "captions_made_by": made_by}
