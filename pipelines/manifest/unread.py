"""Files and members that a scan does not read: counted by reason, with one warning for each."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.manifest.diagnostics import Problems, quoted


@dataclass(frozen=True)
class Reason:
    """Why something is not read."""

    one: str
    many: str
    fix: str


REASONS: Mapping[str, Reason] = {
    "bad_name": Reason(
        "name that holds control characters or is not UTF-8",
        "names that hold control characters or are not UTF-8",
        "Rename the files, or pack the archive again with names in UTF-8.",
    ),
    "linked_folder": Reason(
        "linked folder leads out of the root",
        "linked folders lead out of the root",
        "Set root to a folder that holds both, or copy the files.",
    ),
    "outside_root": Reason(
        "file is or passes a link that leads out of the root",
        "files are or pass links that lead out of the root",
        "Set root to a folder that holds both, or copy the files.",
    ),
    "dead_link": Reason("link to a missing file", "links to missing files", "Restore their targets."),
    "no_plain_file": Reason("pipe, device or socket", "pipes, devices or sockets", "Clips are plain files."),
    "closed_folder": Reason(
        "folder cannot be opened", "folders cannot be opened", "Change their permissions, or run as another user."
    ),
    "refused_member": Reason(
        "member is no plain file of its archive",
        "members are no plain files of their archives",
        "Pack them again as plain files: tar --dereference --hard-dereference, without -S.",
    ),
    "outside_member": Reason(
        "member has '..' in its name", "members have '..' in their names", "Pack them again below one folder."
    ),
    "orphan_text": Reason(
        "text belongs to no clip", "texts belong to no clip", "Name a text as its video, with .txt in place of .mp4."
    ),
    "bad_json": Reason(
        "JSON file beside a clip has no text under caption, text or prompt",
        "JSON files beside clips have no text under caption, text or prompt",
        'Write {"caption": "..."}.',
    ),
    "bad_archive": Reason(
        "archive cannot be read", "archives cannot be read", "Copy them again, or leave them out of listing.glob."
    ),
}
"""Code -> reason."""
DROPS = frozenset(("bad_name", "outside_root", "refused_member", "outside_member", "bad_archive"))
"""Codes of items that would otherwise be clips; counted among what is dropped."""


@dataclass
class Unread:
    """What a scan did not read."""

    names: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Code -> names, in the order of the scan."""
    detail: dict[str, str] = field(default_factory=dict)
    """Code -> more about its first name."""
    notes: list[tuple[str, str]] = field(default_factory=list)
    """(archive, what is odd about it)."""

    def add(self, code: str, name: str, detail: str = "") -> None:
        """Count `name` under a code of `REASONS`."""
        if not self.names[code] and detail:
            self.detail[code] = detail
        self.names[code].append(name)

    def report(self, place: str, problems: Problems) -> list[str]:
        """Note one warning for each reason and archive; returns them as sentences."""
        sentences = []
        for code in REASONS:
            names = self.names.get(code)
            if not names:
                continue
            reason = REASONS[code]
            what = reason.one if len(names) == 1 else reason.many
            detail = f" ({self.detail[code]})" if code in self.detail else ""
            found = f"{len(names):,} {what}; the first is {quoted(names[0])}{detail}"
            problems.warn(place, None, found, "a clip of each, as a rule", reason.fix)
            problems.dropped[code] += len(names) if code in DROPS else 0
            sentences.append(f"{found}: not read. {reason.fix}")
        for archive, note in self.notes:
            problems.warn(archive, None, note, "an archive that is read whole", "Pack or copy it again.")
            sentences.append(f"{archive}: {note}")
        return sentences
