"""What a captioner is: frames and a prompt in, text out. The same door for PLLaVA, for chat models and for a server.

Decoding is greedy: a caption is a function of its clip, its prompt and the weights, and of nothing else.
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
"""stop: the model ended its text. length: it was cut at `max_new_tokens`."""


class ServerError(UniformError):
    """A caption server that cannot be had, or does not serve what is asked of it."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How text is drawn from a model: always the likeliest token, under these limits."""

    max_new_tokens: int = 256
    """The longest text."""
    repetition_penalty: float = 1.0
    """Divides the score of tokens that were said already; 1 leaves them alone."""
    no_repeat_tokens: int | None = None
    """No run of so many tokens may come twice; None allows it."""

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
    """What a captioner is asked about one clip."""

    picture: Any
    """What the captioner's `prepare` made of the frames."""
    system: str
    user: str


@dataclass(frozen=True)
class Answer:
    """What a captioner said about one clip."""

    text: str
    """As decoded; it may be empty, broken or wrong: `uniform.captioning.gate` judges it."""
    finish: Finish
    tokens: int
    """New tokens, for the speed; 0 where the backend does not say."""


@dataclass(frozen=True)
class Failure:
    """A question that got no answer this time, and why."""

    reason: str


@runtime_checkable
class Captioner(Protocol):
    """A model behind one of the backends."""

    def prepare(self, frames: Frames) -> Any:
        """The part of the work that belongs to a CPU. It is called from several threads."""
        ...

    def prompt_tokens(self, system: str, user: str) -> int:
        """Length of the prompt, to sort questions by; any measure that grows with it will do."""
        ...

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> Sequence[Answer | Failure]:
        """One answer a question, in order. Raises what torch raises where memory runs out; ServerError."""
        ...
