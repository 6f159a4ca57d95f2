"""The three tasks of UniForm and what each of them generates (paper, 3.1.3)."""

from enum import StrEnum
from typing import Literal

Modality = Literal["video", "audio"]
MODALITIES: tuple[Modality, ...] = ("video", "audio")


class Task(StrEnum):
    """One of the three tasks; its position in the class is the id that the task embedding is indexed with."""

    T2AV = "t2av"
    """Text to audible video: both modalities are generated."""
    A2V = "a2v"
    """Audio to video: the sound is given, the picture is generated."""
    V2A = "v2a"
    """Video to audio: the picture is given, the sound is generated."""

    @property
    def number(self) -> int:
        """The task's row in the task embedding: 0, 1 or 2."""
        return list(Task).index(self)

    def generates(self, modality: Modality) -> bool:
        """True where this task generates `modality`, False where the modality is given."""
        given: dict[Task, Modality | None] = {Task.T2AV: None, Task.A2V: "audio", Task.V2A: "video"}
        return given[self] != modality
