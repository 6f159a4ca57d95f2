"""Caption many clips: in batches sorted by length, checked by the gate, with one retry for bad captions."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from uniform.captioning.base import Answer, Captioner, Decoding, Failure, Finish, Question
from uniform.captioning.gate import GateResult, Rules, check_text
from uniform.codecs.memory import MemoryBatches

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CaptionResult:
    """The caption of one question, or why there is none."""

    caption: str
    """The kept caption, or the last rejected one."""
    attempt: int
    """The attempt that it comes from: 1 or 2."""
    finish: Finish
    code: str | None = None
    """Drop code: a fault of the gate, or caption_server; None for a kept caption."""
    reason: str = ""
    notes: tuple[str, ...] = ()


@dataclass
class Speed:
    """Throughput of captioning."""

    clips: int = 0
    tokens: int = 0
    seconds: float = 0.0
    retried: int = 0
    codes: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        seconds = self.seconds or 1e-9
        codes = ", ".join(f"{count} {code}" for code, count in sorted(self.codes.items())) or "none rejected"
        return (
            f"{self.clips} clips, {self.tokens:,} tokens in {self.seconds:.1f} s "
            f"({self.tokens / seconds:.0f} tokens/s, {self.clips / seconds:.2f} clips/s), "
            f"{self.retried} retried, {codes}"
        )


class CaptionRetry:
    """A captioner with its gate and its batch size.

    Args:
        captioner: makes the captions.
        decoding: options of the first attempt.
        again: options of the second attempt; None makes none.
        rules: of the gate.
        batch_clips: questions that go to the captioner together; halved where they do not fit into memory.
    """

    def __init__(
        self, captioner: Captioner, decoding: Decoding, again: Decoding | None, rules: Rules, batch_clips: int
    ) -> None:
        self._captioner, self._decoding, self._again, self._rules = captioner, decoding, again, rules
        self.batches = MemoryBatches(batch_clips, (captioner,))

    def caption(self, questions: Sequence[Question], speed: Speed | None = None) -> list[CaptionResult | None]:
        """One result per question, in order; None where a question alone does not fit into memory.

        `speed` is added to.
        """
        speed = speed or Speed()
        began = time.monotonic()
        first = self._attempt(questions, self._decoding, 1, speed)
        bad = [place for place, found in enumerate(first) if found is not None and found.code is not None]
        results: list[CaptionResult | None] = [None if found is None else found.result for found in first]
        if self._again is not None and bad:
            second = self._attempt([questions[place] for place in bad], self._again, 2, speed)
            for place, found in zip(bad, second, strict=True):
                results[place] = _better(first[place], found)
        else:
            for place in bad:
                results[place] = _better(first[place], None)
        speed.clips += len(questions)
        speed.retried += len(bad) if self._again is not None else 0
        speed.seconds += time.monotonic() - began
        speed.codes.update(result.code for result in results if result is not None and result.code is not None)
        return results

    def _attempt(
        self, questions: Sequence[Question], decoding: Decoding, number: int, speed: Speed
    ) -> list["_Attempt | None"]:
        lengths = [self._captioner.prompt_tokens(question.system, question.user) for question in questions]
        order = sorted(range(len(questions)), key=lambda place: (lengths[place], place))
        answers = self.batches.run(
            lambda batch: self._captioner.answer(batch, decoding), [questions[place] for place in order]
        )
        found: list[_Attempt | None] = [None] * len(questions)
        for place, answer in zip(order, answers, strict=True):
            if answer is not None:
                found[place] = self._checked(questions[place], answer, number)
            speed.tokens += answer.tokens if isinstance(answer, Answer) else 0
        return found

    def _checked(self, question: Question, answer: Answer | Failure, number: int) -> "_Attempt":
        if isinstance(answer, Failure):
            failed = CaptionResult(
                caption="", attempt=number, finish="stop", code="caption_server", reason=answer.reason
            )
            return _Attempt(failed, None)
        try:
            gate = check_text(answer.text, answer.finish, (question.system, question.user), self._rules)
        except (ValueError, ArithmeticError, RecursionError) as error:  # one odd answer costs its clip, not the run
            reason = f"the answer cannot be checked: {type(error).__name__}: {error}"
            return _Attempt(
                CaptionResult(caption="", attempt=number, finish="stop", code="caption_language", reason=reason), None
            )
        result = CaptionResult(
            caption=gate.caption,
            attempt=number,
            finish=answer.finish,
            code=gate.fault,
            reason=gate.reason,
            notes=gate.notes,
        )
        return _Attempt(result, gate)


@dataclass(frozen=True)
class _Attempt:
    result: CaptionResult
    gate: GateResult | None
    """None for a question without an answer."""

    @property
    def code(self) -> str | None:
        return self.result.code

    @property
    def fixed(self) -> CaptionResult | None:
        """The result after cutting the caption to whole sentences; None where that does not help."""
        old = self.result
        if self.gate is None or self.gate.fixed is None:
            return None
        note = f"cut to its whole sentences ({old.code}: {old.reason})"
        return CaptionResult(caption=self.gate.fixed, attempt=old.attempt, finish=old.finish, notes=(*old.notes, note))


def _better(first: _Attempt | None, second: _Attempt | None) -> CaptionResult | None:
    """The better of a bad first attempt and a second one: a good one, else a fixed one, else the reasons of both."""
    assert first is not None, "only a question with a result is retried"
    why = f"retried after {first.code}: {first.result.reason}"
    if second is None:
        return first.fixed or first.result
    last = second.result
    if last.code is None:
        return CaptionResult(caption=last.caption, attempt=2, finish=last.finish, notes=(*last.notes, why))
    fixed = second.fixed or first.fixed
    if fixed is not None:
        return fixed
    reason = last.reason if first.code == last.code else f"{last.reason} ({why})"
    return CaptionResult(caption=last.caption, attempt=2, finish=last.finish, code=last.code, reason=reason)
