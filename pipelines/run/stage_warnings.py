"""Warnings at the end of a stage: messages that no drop code fits, and hosts that refuse or pause requests."""

from collections import Counter
from collections.abc import Iterable

from pipelines.run import ledger
from pipelines.run.commits import Commit
from pipelines.run.folder import RunFolder

WARNED = {
    "unknown": "were dropped for reasons that no code fits yet; please report these messages",
    "host_paused": "were not requested, because their host refuses requests",
    "daily_budget": "were not requested, because today's requests are used up",
    "quiet_hours": "were not requested at this hour",
    "disk_full": "met a full disk",
}
"""Drop codes that are worth a warning, and the message about their clips."""
EXAMPLES = 3
"""Different reasons that are shown of each code."""


def stage_warnings(folder: RunFolder, stage: str, commits: Iterable[Commit]) -> list[str]:
    """One line per such code among units that were just made: how many clips, why, and what to do.

    Raises: PipelineError where a ledger part cannot be read.
    """
    reasons: dict[str, Counter[str]] = {}
    for commit in commits:
        if WARNED.keys() & commit.codes.keys():
            table = ledger.read_part(folder.inside(commit.ledger), ["code", "reason"])
            for code, reason in zip(table["code"].to_pylist(), table["reason"].to_pylist(), strict=True):
                if code in WARNED:
                    reasons.setdefault(code, Counter())[reason] += 1
    return [_warning(folder, stage, code, found) for code, found in sorted(reasons.items())]


def _warning(folder: RunFolder, stage: str, code: str, found: Counter[str]) -> str:
    shown = "; ".join(f"'{reason}' ({count:,})" for reason, count in found.most_common(EXAMPLES))
    more = f"; and {len(found) - EXAMPLES:,} other reasons" if len(found) > EXAMPLES else ""
    again = f"To try again: uniform pipeline retry {folder.path} --code {code}"
    return f"{stage}: {found.total():,} clips {WARNED[code]} ({code}): {shown}{more}. {again}"
