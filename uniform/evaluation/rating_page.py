"""A page for blind side-by-side rating: two sample sets, clip by clip, sides exchanged at random, answers as JSON.

Which set is on which side stands in the page as a digest only until the answers are exported: a rater sees "left" and
"right". The order of clips and sides depends on the seed alone, so several raters see one order, or each their own.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uniform.atomic import write_bytes
from uniform.errors import InputError
from uniform.evaluation.html import STYLE, policy, relative_url, render
from uniform.evaluation.sets import ClipSet, names, read_set
from uniform.fingerprint import digest

MAX_PAIRS = 1_000
MAX_EMBEDDED_BYTES = 200 << 20
"""Of media inside a page; a browser holds all of it."""
KINDS = {".webm": "video/webm", ".ogv": "video/ogg", ".wav": "audio/wav", ".mp3": "audio/mpeg", ".flac": "audio/flac"}
"""Media types of embedded clips, by suffix; others are MP4."""
QUESTION = "Which clip is better?"
SCHEMA = 1
PAGE_STYLE = f"""{STYLE}
.pair{{display:flex;gap:2rem;justify-content:center}}.pair video{{width:420px;max-width:45vw}}
.answers{{text-align:center;margin:1rem}}button{{font-size:1rem;padding:.5rem 1rem;margin:.2rem}}
kbd{{border:1px solid #999;border-radius:3px;padding:0 .3rem}}#done{{display:none}}#done.shown{{display:block}}
#work.hidden{{display:none}}progress{{width:100%}}
"""
SCRIPT = """
var data = JSON.parse(document.getElementById("pairs").textContent), answers = {}, at = 0;
var store = "uniform-rating-" + data.page;
function byId(id) { return document.getElementById(id); }
try { answers = JSON.parse(localStorage.getItem(store) || "{}"); } catch (error) { answers = {}; }
function first() { for (var i = 0; i < data.pairs.length; i++) { if (!(i in answers)) { return i; } } return data.pairs.length; }
function show() {
  var pair = data.pairs[at], over = at >= data.pairs.length;
  byId("work").className = over ? "hidden" : ""; byId("done").className = over ? "shown" : "";
  byId("progress").value = Object.keys(answers).length;
  byId("count").textContent = Object.keys(answers).length + " of " + data.pairs.length + " answered";
  if (over) { return; }
  byId("left").src = pair.left; byId("right").src = pair.right;
  byId("caption").textContent = pair.text || ""; byId("number").textContent = "Pair " + (at + 1);
  byId("given").textContent = at in answers ? "answered: " + answers[at].choice : "";
}
function answer(choice) {
  if (at >= data.pairs.length) { return; }
  answers[at] = { choice: choice, seconds: Math.round((Date.now() - began) / 100) / 10 };
  try { localStorage.setItem(store, JSON.stringify(answers)); } catch (error) { byId("given").textContent = "not saved"; }
  move(at + 1);
}
var began = Date.now();
function move(to) { at = Math.max(0, Math.min(data.pairs.length, to)); began = Date.now(); show(); }
function play(side) {
  var other = side === "left" ? "right" : "left"; byId(other).pause();
  var video = byId(side); video.currentTime = 0; video.play();
}
function save() {
  var out = { schema: data.schema, page: data.page, question: data.question, rater: byId("rater").value, answers: [] };
  data.pairs.forEach(function (pair, i) {
    if (i in answers) { out.answers.push({ pair: pair.id, choice: answers[i].choice, seconds: answers[i].seconds, key: pair.key }); }
  });
  var link = document.createElement("a"), name = (byId("rater").value || "rater").replace(/[^A-Za-z0-9_-]/g, "_");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(out, null, 1)], { type: "application/json" }));
  link.download = "ratings-" + name + ".json"; link.click();
}
document.addEventListener("keydown", function (event) {
  if (event.target.tagName === "INPUT") { return; }
  var actions = { "1": function () { play("left"); }, "2": function () { play("right"); },
    "ArrowLeft": function () { answer("left"); }, "ArrowRight": function () { answer("right"); },
    " ": function () { answer("tie"); }, "Backspace": function () { move(at - 1); } };
  if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
});
["left", "right", "tie"].forEach(function (choice) { byId("choose-" + choice).addEventListener("click", function () { answer(choice); }); });
byId("back").addEventListener("click", function () { move(at - 1); });
byId("save").addEventListener("click", save); byId("save-early").addEventListener("click", save);
at = first(); show();
"""  # noqa: E501 - a script


@dataclass(frozen=True, kw_only=True)
class RatingPage:
    """A written page."""

    path: Path
    pairs: int
    left_out: int
    """Clips that only one set has."""


def write_rating_page(
    first: Path,
    second: Path,
    path: Path,
    *,
    seed: int = 0,
    most: int | None = None,
    question: str = QUESTION,
    embed: bool = True,
) -> RatingPage:
    """Write one page for the clips that two sets share.

    Args:
        first, second: folders or lists; see `sets.read_set`.
        path: the HTML file.
        embed: put the clips into the page, so that it is one file and no address shows which set a clip is from;
            otherwise players point to the clips where they lie.
        seed: of the order of the pairs and of the sides.
        most: so many pairs, drawn by the seed; None is all.
    Raises: InputError where the sets share no clip, or more than a page holds.
    """
    one, two = read_set(first, "first", audio_only=True), read_set(second, "second", audio_only=True)
    pairs = _pairs(one, two)
    left_out = len(set(one.clip_ids) ^ set(two.clip_ids))
    random = np.random.default_rng(seed)
    order = random.permutation(len(pairs))[:most]
    if len(order) > MAX_PAIRS:
        raise InputError(f"{len(order):,} pairs are more than anyone rates; wanted {MAX_PAIRS:,} or fewer (--most)")
    exchanged = random.random(len(pairs)) < 0.5
    page = digest([one.clip_ids, two.clip_ids, str(first), str(second), seed, most, question])
    _require_room([part for number in order for part in pairs[number][:2]] if embed else [])
    shown = []
    for number in order:
        a, b, text = pairs[number]
        left, right = (b, a) if exchanged[number] else (a, b)
        shown.append(
            {
                "id": int(number),
                "text": text,
                "left": _embedded(left) if embed else relative_url(left, path.parent),
                "right": _embedded(right) if embed else relative_url(right, path.parent),
                "key": side_key(page, int(number), "second" if exchanged[number] else "first"),
            }
        )
    data = {"schema": SCHEMA, "page": page, "question": question, "pairs": shown}
    html = render(
        "rating.html.j2",
        policy=policy(SCRIPT, PAGE_STYLE),
        style=PAGE_STYLE,
        script=SCRIPT,
        question=question,
        count=len(shown),
        data=_inert_json(data),
    )
    write_bytes(path, html.encode())
    sets = {"first": str(first), "second": str(second)}
    clips = {str(number): _clip_id(one, two, number) for number in order}
    key = {"schema": SCHEMA, "page": page, "question": question, "sets": sets, "pairs": len(shown), "clips": clips}
    write_bytes(path.with_suffix(".key.json"), f"{json.dumps(key, indent=1)}\n".encode())
    return RatingPage(path=path, pairs=len(shown), left_out=left_out)


def side_key(page: str, pair: int, left: str) -> str:
    """Stands for which set is on the left, so that reading the page shows it to nobody by chance."""
    return digest([page, pair, left])


def _pairs(one: ClipSet, two: ClipSet) -> list[tuple[Path, Path, str]]:
    by_id = {clip.clip_id: clip for clip in reversed(two.clips)}
    mine = {clip.clip_id: clip for clip in reversed(one.clips)}
    common = sorted(set(mine) & set(by_id))
    if not common:
        raise InputError(f"the two sets share no clip_id: {names(one.clip_ids)}; {names(two.clip_ids)}")
    return [(mine[name].path, by_id[name].path, mine[name].text or by_id[name].text) for name in common]


def _require_room(paths: Sequence[Path]) -> None:
    total = sum(path.stat().st_size for path in paths)
    if total > MAX_EMBEDDED_BYTES:
        raise InputError(
            f"{len(paths)} clips have {total / 1e6:,.0f} MB; a page holds {MAX_EMBEDDED_BYTES / 1e6:,.0f} MB. Take "
            f"fewer pairs (--most), or --link, which leaves the clips where they are and shows their addresses."
        )


def _embedded(path: Path) -> str:
    kind = KINDS.get(path.suffix.lower(), "video/mp4")
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _clip_id(one: ClipSet, two: ClipSet, number: Any) -> str:
    return sorted(set(one.clip_ids) & set(two.clip_ids))[int(number)]


def _inert_json(data: Any) -> str:
    """JSON that cannot end the element that it stands in."""
    text = json.dumps(data, ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def read_key(path: Path) -> dict[str, Any]:
    """The key file beside a page. Raises InputError."""
    try:
        key = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not the key of a rating page ({error}). It lies beside the page.") from error
    if not isinstance(key, dict) or key.get("schema") != SCHEMA or "sets" not in key:
        raise InputError(f"{path}: not the key of a rating page. It lies beside the page, as NAME.key.json.")
    return key


def sides(values: Sequence[str]) -> None:
    """Raise InputError for anything but the three answers."""
    wrong = sorted(set(values) - {"left", "right", "tie"})
    if wrong:
        raise InputError(f"answers are left, right or tie; found {names(wrong)}")
