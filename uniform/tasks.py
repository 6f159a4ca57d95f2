"""The three tasks of UniForm and the modalities that each generates (paper, 3.1.3)."""

from enum import StrEnum
from typing import Literal

Modality = Literal["video", "audio"]
MODALITIES: tuple[Modality, ...] = ("video", "audio")


class Task(StrEnum):
    """One of the three tasks; its position in the class is its row in the task embedding."""

    T2AV = "t2av"
    """Text to audible video: both modalities are generated."""
    A2V = "a2v"
    """Audio to video: audio is the conditioning modality, video is generated."""
    V2A = "v2a"
    """Video to audio: video is the conditioning modality, audio is generated."""

    @property
    def number(self) -> int:
        """The task's row in the task embedding: 0, 1 or 2."""
        return list(Task).index(self)

    def generates(self, modality: Modality) -> bool:
        """True where this task generates `modality`, False where it is the conditioning modality."""
        conditioning: dict[Task, Modality | None] = {Task.T2AV: None, Task.A2V: "audio", Task.V2A: "video"}
        return conditioning[self] != modality
