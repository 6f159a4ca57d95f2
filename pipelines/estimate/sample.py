"""Draw the clips of a pilot: stratified by dataset, split and host, in the order of a fixed hash of the clip id."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import pyarrow as pa

from pipelines.hosts import host_of
from pipelines.run.units import in_order

Stratum = tuple[str, str, str]
"""Dataset, split, and host (or the kind of source, where there is no host)."""


def strata(clips: pa.Table) -> dict[Stratum, list[str]]:
    """The clip ids of each stratum, in the order of the table."""
    found: defaultdict[Stratum, list[str]] = defaultdict(list)
    names = ("clip_id", "dataset", "split", "source_kind", "source_uri")
    for clip_id, dataset, split, kind, uri in zip(*(clips[name].to_pylist() for name in names), strict=True):
        found[dataset, split, host_of(kind, uri) or kind].append(clip_id)
    return dict(found)


def draw(clips: pa.Table, number: int) -> tuple[list[str], list[Stratum]]:
    """Draw `number` clips: each stratum in proportion to its size, its first clips by the hash of the id.

    Returns: (clip ids in the order of the units, strata that are too small to be in the sample).
    """
    by_stratum = strata(clips)
    shares = _shares({stratum: len(ids) for stratum, ids in by_stratum.items()}, min(number, clips.num_rows))
    chosen = [clip_id for stratum, ids in by_stratum.items() for clip_id in in_order(ids)[: shares[stratum]]]
    return in_order(chosen), sorted(stratum for stratum, share in shares.items() if share == 0)


def _shares(sizes: Mapping[Stratum, int], number: int) -> dict[Stratum, int]:
    """Split `number` in proportion to `sizes` by largest remainders, in integers; ties go to the first name.

    `uniform.latents.batches.mixture` splits float shares and breaks ties otherwise: its batches depend on that.
    """
    whole = sum(sizes.values())
    shares = {stratum: number * size // whole for stratum, size in sizes.items()}
    by_remainder: Sequence[Stratum] = sorted(sizes, key=lambda one: (-(number * sizes[one] % whole), one))
    for stratum in by_remainder[: number - sum(shares.values())]:
        shares[stratum] += 1
    return shares
