"""Ask a captioner about many clips: in batches by length, judged, and the bad ones asked once more another way."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from uniform.captioning.base import Answer, Captioner, Decoding, Failure, Finish, Question
from uniform.captioning.gate import Judgement, Rules, judge
from uniform.codecs.memory import MemoryBatches

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one question."""

    caption: str
    """The caption that is kept, or the last one that was refused."""
    attempt: int
    """Which attempt it comes from: 1 or 2."""
    finish: Finish
    code: str | None = None
    """Why there is no caption: a fault of the gate, or caption_server; None where there is one."""
    reason: str = ""
    remarks: tuple[str, ...] = ()


@dataclass
class Speed:
    """What asking cost."""

    clips: int = 0
    tokens: int = 0
    seconds: float = 0.0
    asked_again: int = 0
    codes: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        pace = self.seconds or 1e-9
        codes = ", ".join(f"{count} {code}" for code, count in sorted(self.codes.items())) or "none refused"
        return (
            f"{self.clips} clips, {self.tokens:,} tokens in {self.seconds:.1f} s ({self.tokens / pace:.0f} tokens/s, "
            f"{self.clips / pace:.2f} clips/s), {self.asked_again} asked again, {codes}"
        )


class CaptionRetry:
    """A captioner with its gate, and how far its batches had to shrink.

    Args:
        decoding: for the first attempt.
        again: for the second one; None makes none.
        batch_clips: questions that go to the captioner together; halved where they do not fit into memory.
    """

    def __init__(
        self, captioner: Captioner, decoding: Decoding, again: Decoding | None, rules: Rules, batch_clips: int
    ) -> None:
        self._captioner, self._decoding, self._again, self._rules = captioner, decoding, again, rules
        self.batches = MemoryBatches(batch_clips, (captioner,))

    def ask(self, questions: Sequence[Question], speed: Speed | None = None) -> list[Outcome | None]:
        """One outcome a question, in order; None where a single one does not fit into memory."""
        speed = speed or Speed()
        began = time.monotonic()
        first = self._attempt(questions, self._decoding, 1, speed)
        bad = [place for place, found in enumerate(first) if found is not None and found.code is not None]
        outcomes: list[Outcome | None] = [None if found is None else found.outcome for found in first]
        if self._again is not None and bad:
            second = self._attempt([questions[place] for place in bad], self._again, 2, speed)
            for place, found in zip(bad, second, strict=True):
                outcomes[place] = _better(first[place], found)
        else:
            for place in bad:
                outcomes[place] = _better(first[place], None)
        speed.clips += len(questions)
        speed.asked_again += len(bad) if self._again is not None else 0
        speed.seconds += time.monotonic() - began
        speed.codes.update(outcome.code for outcome in outcomes if outcome is not None and outcome.code is not None)
        return outcomes

    def _attempt(
        self, questions: Sequence[Question], decoding: Decoding, number: int, speed: Speed
    ) -> list["_Judged | None"]:
        lengths = [self._captioner.prompt_tokens(question.system, question.user) for question in questions]
        order = sorted(range(len(questions)), key=lambda place: (lengths[place], place))
        answers = self.batches.run(
            lambda batch: self._captioner.answer(batch, decoding), [questions[place] for place in order]
        )
        found: list[_Judged | None] = [None] * len(questions)
        for place, answer in zip(order, answers, strict=True):
            if answer is not None:
                found[place] = self._judged(questions[place], answer, number)
            speed.tokens += answer.tokens if isinstance(answer, Answer) else 0
        return found

    def _judged(self, question: Question, answer: Answer | Failure, number: int) -> "_Judged":
        if isinstance(answer, Failure):
            outcome = Outcome(caption="", attempt=number, finish="stop", code="caption_server", reason=answer.reason)
            return _Judged(outcome, None)
        said = judge(answer.text, answer.finish, (question.system, question.user), self._rules)
        facts: dict[str, Any] = {"attempt": number, "finish": answer.finish, "remarks": said.remarks}
        return _Judged(Outcome(caption=said.caption, code=said.fault, reason=said.reason, **facts), said)


@dataclass(frozen=True)
class _Judged:
    outcome: Outcome
    judgement: Judgement | None

    @property
    def code(self) -> str | None:
        return self.outcome.code

    @property
    def mended(self) -> Outcome | None:
        """The outcome after cutting, where that helps."""
        told, said = self.outcome, self.judgement
        if said is None or said.mended is None:
            return None
        remark = f"cut to its whole sentences ({told.code}: {told.reason})"
        return Outcome(caption=said.mended, attempt=told.attempt, finish=told.finish, remarks=(*told.remarks, remark))


def _better(first: _Judged | None, second: _Judged | None) -> Outcome | None:
    """What is kept of a bad first and a second attempt: a good one, else a mended one, else the reasons of both."""
    assert first is not None, "only a question that got an answer is asked again"
    why = f"asked again after {first.code}: {first.outcome.reason}"
    if second is None:
        return first.mended or first.outcome
    if second.code is None:
        told = second.outcome
        return Outcome(caption=told.caption, attempt=2, finish=told.finish, remarks=(*told.remarks, why))
    mended = second.mended or first.mended
    if mended is not None:
        return mended
    told = second.outcome
    reason = told.reason if first.code == told.code else f"{told.reason} ({why})"
    return Outcome(caption=told.caption, attempt=2, finish=told.finish, code=told.code, reason=reason)
