"""What somebody should hear when a stage ends: messages that no code fits, and hosts that are not asked for a while."""

from collections import Counter
from collections.abc import Iterable

from pipelines.run import ledger
from pipelines.run.commits import Commit
from pipelines.run.folder import RunFolder

LOUD = {
    "unknown": "left for reasons that no code fits yet; please report these messages",
    "host_paused": "were not asked for, because their host refuses us",
    "daily_budget": "were not asked for, because today's requests are used up",
    "quiet_hours": "were not asked for at this hour",
    "disk_full": "found no space left on a disk",
}
"""Codes that are said aloud, and what is said of their clips."""
EXAMPLES = 3
"""Different reasons that are shown of each code."""


def remarks(folder: RunFolder, stage: str, commits: Iterable[Commit]) -> list[str]:
    """Lines about the loud codes among units that were just made; each says how many clips, why, and what to do.

    Raises: PipelineError where a ledger part cannot be read.
    """
    reasons: dict[str, Counter[str]] = {}
    for commit in commits:
        if LOUD.keys() & commit.codes.keys():
            table = ledger.read_part(folder.inside(commit.ledger), ["code", "reason"])
            for code, reason in zip(table["code"].to_pylist(), table["reason"].to_pylist(), strict=True):
                if code in LOUD:
                    reasons.setdefault(code, Counter())[reason] += 1
    return [_remark(folder, stage, code, found) for code, found in sorted(reasons.items())]


def _remark(folder: RunFolder, stage: str, code: str, found: Counter[str]) -> str:
    shown = "; ".join(f"'{reason}' ({count:,})" for reason, count in found.most_common(EXAMPLES))
    more = f"; and {len(found) - EXAMPLES:,} other reasons" if len(found) > EXAMPLES else ""
    again = f"To ask again: uniform pipeline retry {folder.path} --code {code}"
    return f"{stage}: {found.total():,} clips {LOUD[code]} ({code}): {shown}{more}. {again}"
