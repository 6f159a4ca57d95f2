"""Write index.parquet and card.json from the commits of a finished run: always the same bytes.

Only commits, ledger parts and member tables are read; the shards were verified when they were written. An older card
is removed first, then the index is written, then the card: where there is a card, the index is complete and agrees.
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
from pipelines.run.provenance import RunInputs
from pipelines.run.state import RunState
from pipelines.run.status import live_rows
from pipelines.run.units import Units
from uniform.atomic import replacing
from uniform.errors import PipelineError, ShardError
from uniform.fingerprint import digest
from uniform.latents.format import (
    AUDIO_MEMBER,
    INDEX_SCHEMA,
    LATENTS,
    MEMBER_COLUMNS,
    STDEV,
    STDEV_COLUMNS,
    TEXT_MEMBER,
    VIDEO_MEMBER,
    Card,
    ids_digest,
    shard_name,
)
from uniform.spec import long_spec
from uniform.tables import read_parquet


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
        std = np.sqrt(np.maximum(squares / self.values - mean**2, 0.0))
        return {"mean": mean.tolist(), "std": std.tolist()}


@dataclass(frozen=True)
class _Tars:
    """The recipe's stages whose tars the index names."""

    latents: StageStep
    stdev: StageStep | None
    texts: Mapping[str, StageStep]
    """By caption set, in the order of the sets' names."""


def _tars(recipe: Recipe) -> _Tars | None:
    by_store = {step.stage.store.name: step for step in recipe.steps if step.stage.store.kind == "tar"}
    if LATENTS not in by_store:
        return None
    missing = [member for member in MEMBER_COLUMNS.values() if member not in by_store[LATENTS].stage.gives]
    if missing:
        raise PipelineError(f"stage '{by_store[LATENTS].name}' writes '{LATENTS}' but gives no {', '.join(missing)}")
    texts = {
        step.stage.store.caption_set: step
        for _, step in sorted(by_store.items())
        if step.stage.store.caption_set is not None and TEXT_MEMBER in step.stage.gives
    }
    return _Tars(by_store[LATENTS], by_store.get(STDEV), texts)


def write_index(folder: RunFolder, inputs: RunInputs, state: RunState, final: Tally) -> int | None:
    """Write index.parquet and card.json for the clips that every stage kept.

    Returns: clips in the index; None where the recipe makes no latents, or no clip is left.
    Raises: ShardError where a unit's member table contradicts its ledger.
    """
    recipe, units = inputs.recipe, inputs.units
    tars = _tars(recipe)
    if tars is None or not final.kept:
        return None
    rows = _IndexRows(folder, recipe, units, tars, windows=int(inputs.provenance(tars.latents).get("windows", 1)))
    with replacing(folder.index) as temporary:
        with pq.ParquetWriter(temporary, INDEX_SCHEMA, compression="zstd") as writer:
            last = state.finished(recipe.steps[-1].name)
            for commit, table in live_rows(folder, last, units, ["clip_id", "code"]):
                pairs = zip(table["clip_id"].to_pylist(), table["code"].to_pylist(), strict=True)
                kept = [clip_id for clip_id, code in pairs if code == OK]
                if kept:
                    writer.write_table(rows.of_unit(commit.unit, kept))
        if not (folder.index.exists() and filecmp.cmp(temporary, folder.index, shallow=False)):
            folder.card.unlink(missing_ok=True)  # a kill from here on leaves no card, rather than an older one
    card = Card(
        spec=recipe.spec.as_dict(),
        video=_codec(inputs, tars.latents, "video"),
        audio=_codec(inputs, tars.latents, "audio"),
        texts={name: _text_card(inputs, step) for name, step in tars.texts.items()},
        datasets=tuple(sorted(rows.datasets)),
        clips=len(rows.clip_ids),
        counts=dict(final.codes),
        statistics={modality: sums.statistics() for modality, sums in rows.sums.items()},
        ids_digest=ids_digest(rows.clip_ids),
        licences=tuple(sorted(rows.licences)),
        windows=rows.windows,
    )
    card.write(folder.path)
    return len(rows.clip_ids)


@dataclass
class _IndexRows:
    """Makes the index rows of one unit after the other, and collects what the card summarises."""

    folder: RunFolder
    recipe: Recipe
    units: Units
    tars: _Tars
    windows: int
    """Windows of each clip, from the provenance of the stage that writes the latents."""
    clip_ids: list[str] = field(default_factory=list)
    datasets: set[str] = field(default_factory=set)
    licences: set[str] = field(default_factory=set)
    sums: dict[str, _Sums] = field(default_factory=lambda: {"video": _Sums(), "audio": _Sums()})

    def of_unit(self, unit: int, kept: list[str]) -> pa.Table:
        """The rows of a unit's kept clips. Raises ShardError where a member table lacks one of them."""
        places = self._places(self.tars.latents, unit, MEMBER_COLUMNS.values(), kept)
        for modality, member in (("video", VIDEO_MEMBER), ("audio", AUDIO_MEMBER)):
            self.sums[modality].add([places[clip_id, member] for clip_id in kept])
        columns = dict(MEMBER_COLUMNS)
        if self.tars.stdev is not None:
            places |= self._places(self.tars.stdev, unit, STDEV_COLUMNS.values(), kept)
            columns |= STDEV_COLUMNS
        texts = {name: self._places(step, unit, [TEXT_MEMBER], kept) for name, step in self.tars.texts.items()}
        by_id = {row.clip_id: row for row in self.units.rows(unit)}
        frames = long_spec(self.recipe.spec, self.windows).frames
        found = []
        for clip_id in kept:
            row = by_id[clip_id]
            found.append(
                {
                    "clip_id": clip_id,
                    "dataset": row.dataset,
                    "split": row.split,
                    "unit": unit,
                    **{column: _place(places[clip_id, member]) for column, member in columns.items()},
                    "start_ms": row.start_ms,
                    "frames": frames,
                    "has_audio": True,  # a clip without audio was dropped as no_audio
                    "texts": [_text_place(name, text[clip_id, TEXT_MEMBER]) for name, text in texts.items()],
                }
            )
            self.clip_ids.append(clip_id)
            self.datasets.add(row.dataset)
            self.licences |= {row.license} if row.license else set()
        return pa.Table.from_pylist(found, schema=INDEX_SCHEMA)

    def _places(
        self, step: StageStep, unit: int, fields: Iterable[str], kept: list[str]
    ) -> dict[tuple[str, str], dict[str, Any]]:
        """(clip id, field) -> row of the stage's member table, with the name of the shard."""
        shard = shard_name(step.stage.store.name, unit)
        members = _members(self.folder, step, unit)
        found = {(row["clip_id"], row["field"]): {**row, "shard": shard} for row in members.to_pylist()}
        wanted = [(clip_id, name) for name in fields for clip_id in kept]
        missing = next((key for key in wanted if key not in found), None)
        if missing:
            raise ShardError(
                f"{shard}: kept clip {missing[0]} has no member '{missing[1]}'; its member table was replaced"
            )
        return {key: found[key] for key in wanted}


def _members(folder: RunFolder, step: StageStep, unit: int) -> pa.Table:
    fix = f"Remove {folder.commit(step.name, unit)} and run again."
    return read_parquet(folder.members(step.name, unit), ShardError, "the member table of a shard", fix=fix)


def _place(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("shard", "offset", "bytes", "crc32")}


def _text_place(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {"set": name, **_place(row), "tokens": row["tokens"]}


def _codec(inputs: RunInputs, step: StageStep, kind: str) -> Mapping[str, Any]:
    provenance = inputs.provenance(step)
    if kind not in provenance or "fingerprint" not in provenance[kind]:
        raise PipelineError(
            f"stage '{step.name}' writes '{step.stage.store.name}', so its provenance must give the card of its "
            f"codec under '{kind}' (CodecCard.as_dict())"
        )
    card: Mapping[str, Any] = provenance[kind]
    return card


def _text_card(inputs: RunInputs, step: StageStep) -> dict[str, Any]:
    captions = [inputs.provenance(producer) for producer in inputs.recipe.producers(step.name).values()]
    made_by = captions[0] if captions else {}
    return {"codec": _codec(inputs, step, "text"), "captions": digest(made_by), "captions_made_by": made_by}
