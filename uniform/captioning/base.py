"""The captioner interface: frames and a prompt in, text out; for PLLaVA, chat models and caption servers alike.

Decoding is greedy: a caption depends only on its clip, its prompt and the weights.
T frames, H x W pixels.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from uniform.errors import ConfigError, UniformError

Frames = NDArray[np.uint8]
"""(T, H, W, 3), RGB."""
Finish = Literal["stop", "length"]
"""stop: the model ended its text. length: the text was cut at `max_new_tokens`."""


class ServerError(UniformError):
    """A caption server that cannot be reached, or does not serve the requested model."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Options of greedy decoding."""

    max_new_tokens: int = 256
    """Limit of one caption."""
    repetition_penalty: float = 1.0
    """Divides the score of tokens that the text already holds; 1 switches it off."""
    no_repeat_tokens: int | None = None
    """No sequence of this many tokens is repeated; None allows repeats."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"decoding.max_new_tokens is {self.max_new_tokens}; it must be 1 or more")
        if self.repetition_penalty < 1:
            raise ConfigError(f"decoding.repetition_penalty is {self.repetition_penalty}; it must be 1 or more")
        if self.no_repeat_tokens is not None and self.no_repeat_tokens < 1:
            raise ConfigError(f"decoding.no_repeat_tokens is {self.no_repeat_tokens}; it must be 1 or more")

    def as_dict(self) -> dict[str, Any]:
        """Every field, JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class Question:
    """One clip and its prompt, ready for a captioner."""

    frames: Any
    """Result of the captioner's `prepare`."""
    system: str
    user: str


@dataclass(frozen=True)
class Answer:
    """The text of a captioner for one clip."""

    text: str
    """As decoded. It can be empty, broken or wrong: `uniform.captioning.gate` checks it."""
    finish: Finish
    tokens: int
    """New tokens, for the throughput; 0 where the backend does not report them."""


@dataclass(frozen=True)
class Failure:
    """A question without an answer, and the reason."""

    reason: str


@runtime_checkable
class Captioner(Protocol):
    """A model of one of the backends."""

    def prepare(self, frames: Frames) -> Any:
        """Preprocess the frames of one clip on the CPU. Called from several threads."""
        ...

    def prompt_tokens(self, system: str, user: str) -> int:
        """Length of the prompt, to sort questions by; any measure that grows with it works."""
        ...

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> Sequence[Answer | Failure]:
        """One answer per question, in order. Raises torch's error where memory runs out; ServerError."""
        ...
