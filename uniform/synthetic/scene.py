"""Scenes of the synthetic world: exact times and attributes of all events, before rendering.

The timeline of a scene starts before the clip and ends after it, so that a source file can hold more than the clip.
Time 0 is the start of the clip. Lengths are in frame heights, x is from the middle of the frame.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

LEAD_S = 1.5
"""How long before the clip a scene's timeline begins."""
TAIL_S = 1.0
"""How long after the clip a scene's timeline ends."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 92, 80),
    "yellow": (255, 220, 70),
    "green": (90, 225, 110),
    "blue": (96, 150, 255),
}
"""Colour classes, 8-bit RGB of the unshaded surface."""
GREY = (150, 150, 150)
"""Colour of silent objects."""
PITCHES_HZ: dict[str, float] = {"low": 330.0, "middle": 900.0, "high": 2100.0, "shrill": 4600.0}
"""Pitch classes, in Hz; each in its own quarter of the mel scale, so 16 mel bins keep them apart."""
PITCH_OF_COLOUR: dict[str, str] = dict(zip(COLOURS, PITCHES_HZ, strict=True))
"""The rule of all worlds with balls: each colour has one pitch."""

FLIGHT_S = (0.3, 0.8)
"""Shortest and longest flight between two impacts; drawn for each flight, so that there is no rhythm."""
DELAYS_S: dict[str, float] = {"at once": 0.0, "a little late": 0.06, "late": 0.12}
"""World w6: delay of the sound after the impact, by the words of the caption."""
SPEED_HZ = (0.4, 2.4)
"""World w3: turns per second, slowest and fastest."""
CLOCK_HZ = 100
"""World w3: samples per second of the speed curve."""


@dataclass(frozen=True, kw_only=True)
class Ball:
    """A ball that bounces on the floor."""

    colour: str
    """A key of COLOURS, or "grey"."""
    pitch: str | None
    """A key of PITCHES_HZ; None where it is silent."""
    x: float
    """Middle of the ball, in frame heights to the right of the frame's middle."""
    impacts_s: tuple[float, ...]
    """Times of impacts on the floor, ascending, over the whole timeline."""
    delay_s: float = 0.0
    """Delay of its sound after an impact."""

    @property
    def sounds_s(self) -> tuple[float, ...]:
        """Start times of its sounds; empty where it is silent."""
        return () if self.pitch is None else tuple(time + self.delay_s for time in self.impacts_s)


@dataclass(frozen=True, kw_only=True)
class Motor:
    """A weight on a turning arm; loudness and pitch follow its speed."""

    colour: str
    angle: tuple[float, ...]
    """Turns since the timeline began, CLOCK_HZ samples per second from -LEAD_S."""
    speed_hz: tuple[float, ...]
    """Turns per second on the same clock."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The complete content of a clip, from which video and audio are rendered."""

    world: str
    seed: int
    duration_s: float
    caption: str
    label: str
    balls: tuple[Ball, ...] = ()
    motor: Motor | None = None
    knocks_s: tuple[float, ...] = ()
    """Start times of sounds whose source is outside the frame."""
    room_noise: bool = False
    """A very quiet noise, so that a clip of silent things is not digital silence."""


@dataclass(frozen=True, kw_only=True)
class BallTruth:
    """Exact truth of one ball inside the clip."""

    colour: str
    pitch: str | None
    x: float
    impacts_s: tuple[float, ...]
    sounds_s: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Exact truth of a clip; stored in the listing's `extra` as JSON text."""

    world: str
    seed: int
    caption: str
    balls: tuple[BallTruth, ...] = ()
    knocks_s: tuple[float, ...] = ()
    delay_s: float = 0.0
    speed_hz: tuple[float, ...] = field(default=())
    """World w3: CLOCK_HZ samples per second from the start of the clip."""

    def to_json(self) -> str:
        """One line of JSON text."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "Truth":
        """The inverse of `to_json`."""
        raw: dict[str, Any] = json.loads(text)
        balls = tuple(BallTruth(**{name: _tupled(value) for name, value in ball.items()}) for ball in raw.pop("balls"))
        return Truth(balls=balls, **{name: _tupled(value) for name, value in raw.items()})


def truth_of(scene: Scene) -> Truth:
    """The part of `scene` that lies inside the clip, times rounded to a tenth of a millisecond."""

    def inside(times: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(round(time, 4) for time in times if 0.0 <= time < scene.duration_s)

    balls = tuple(
        BallTruth(
            colour=ball.colour,
            pitch=ball.pitch,
            x=round(ball.x, 4),
            impacts_s=inside(ball.impacts_s),
            sounds_s=inside(ball.sounds_s),
        )
        for ball in scene.balls
    )
    speed: tuple[float, ...] = ()
    if scene.motor is not None:
        first = round(LEAD_S * CLOCK_HZ)
        speed = tuple(
            round(value, 4) for value in scene.motor.speed_hz[first : first + round(scene.duration_s * CLOCK_HZ)]
        )
    return Truth(
        world=scene.world,
        seed=scene.seed,
        caption=scene.caption,
        balls=balls,
        knocks_s=inside(scene.knocks_s),
        delay_s=scene.balls[0].delay_s if scene.balls else 0.0,
        speed_hz=speed,
    )


def draw_flights(random: np.random.Generator, duration_s: float) -> tuple[float, ...]:
    """Impact times over the whole timeline of a clip of `duration_s` seconds; flights uniform in FLIGHT_S."""
    shortest, longest = FLIGHT_S
    count = int((LEAD_S + duration_s + TAIL_S) / shortest) + 2
    flights = random.uniform(shortest, longest, count)
    times = -LEAD_S - random.uniform(0.0, flights[0]) + np.concatenate([[0.0], np.cumsum(flights)])
    after = int(np.searchsorted(times, duration_s + TAIL_S)) + 1  # the last flight must end, so that it can be rendered
    return tuple(float(time) for time in times[:after])


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
