"""How heads move: speech, blinks, brows, gaze and head, smooth, within what people do; drawn, or read off a real Track."""

from dataclasses import dataclass

import numpy as np

FPS = 25.0
YAW, PITCH, ROLL = 40.0, 24.0, 18.0
"""Degrees that a head never turns beyond."""
_FINE = 4  # steps a frame in which motion is laid out before it is smoothed
_LIDS = ("eyeBlinkLeft", "eyeBlinkRight")

# what the mouth does for a sound: facial actions
_VOWELS: tuple[dict[str, float], ...] = (
    {"jawOpen": 0.52, "mouthLowerDown": 0.25, "mouthUpperUp": 0.12},  # a
    {"jawOpen": 0.30, "mouthStretch": 0.35, "mouthLowerDown": 0.22, "mouthUpperUp": 0.15},  # e
    {"jawOpen": 0.16, "mouthSmile": 0.28, "mouthStretch": 0.22, "mouthUpperUp": 0.2, "mouthLowerDown": 0.2},  # i
    {"jawOpen": 0.38, "mouthFunnel": 0.55},  # o
    {"jawOpen": 0.18, "mouthPucker": 0.75, "mouthFunnel": 0.2},  # u
)
_CONSONANTS: tuple[dict[str, float], ...] = (
    {"mouthPress": 0.35, "mouthRollLower": 0.3, "mouthRollUpper": 0.25},  # m b p
    {"jawOpen": 0.06, "mouthRollLower": 0.55, "mouthUpperUp": 0.25},  # f v
    {"jawOpen": 0.16, "mouthUpperUp": 0.12, "mouthLowerDown": 0.15},  # t d n l
    {"jawOpen": 0.07, "mouthStretch": 0.25, "mouthLowerDown": 0.28, "mouthUpperUp": 0.15},  # s z
    {"jawOpen": 0.12, "mouthFunnel": 0.5},  # sh
    {"jawOpen": 0.22},  # k g h
)
_MOODS: tuple[dict[str, float], ...] = (
    {},
    {},
    {"mouthSmile": 0.35, "cheekSquint": 0.25},
    {"mouthSmile": 0.65, "cheekSquint": 0.45, "eyeSquint": 0.2, "mouthUpperUp": 0.12},
    {"mouthFrown": 0.4, "browDown": 0.3},
    {"browDown": 0.55, "eyeSquint": 0.3},
    {"browInnerUp": 0.5, "eyeWide": 0.3},
    {"mouthDimple": 0.4, "mouthPress": 0.2},
)


@dataclass(frozen=True)
class Motion:
    """What a head does over N frames of 1/25 s.

    Attributes:
        turn: float32 [N, 3], degrees: yaw (to the picture's right), pitch (down), roll (clockwise in the picture).
        shift: float32 [N, 3], metres to the picture's right, down and away.
        actions: float32 [N, A], facial actions, 0..1, in the order of the names given.
        gaze: float32 [N, 2], degrees that the eyes look to the picture's right and down, seen from the head.
    """

    turn: np.ndarray
    shift: np.ndarray
    actions: np.ndarray
    gaze: np.ndarray

    def __len__(self) -> int:
        return len(self.turn)

    def __getitem__(self, index: slice | np.ndarray) -> "Motion":
        return Motion(self.turn[index], self.shift[index], self.actions[index], self.gaze[index])


def draw_motion(names: list[str], frames: int, random: np.random.Generator) -> Motion:
    """A motion of so many frames.

    Args:
        names: of the facial actions, such as "jawOpen".
        random: what it is drawn from.
    """
    steps = frames * _FINE
    actions = np.zeros((steps, len(names)))
    add = _Adder(actions, names)
    _speak(add, steps, random)
    mood = _MOODS[int(random.integers(len(_MOODS)))]
    swell = np.clip(0.75 + 0.35 * _wander(steps, 0.8, random), 0.2, 1.2)
    for name, value in mood.items():
        add.level(name, value * swell)
    _move_brows(add, steps, random)
    actions = smoothed(actions, 0.042)
    gaze = _look(steps, random)
    turn, shift = _turn(steps, random)
    actions = np.clip(actions, 0, 1)
    add = _Adder(actions, names)
    add.follow_gaze(gaze)
    for start in _blink_times(steps, random):
        add.blink(start, random)
    middle = slice(_FINE // 2, None, _FINE)
    f = np.float32
    return Motion(turn[middle].astype(f), shift[middle].astype(f), np.clip(actions[middle], 0, 1).astype(f), gaze[middle].astype(f))


class _Adder:
    """Adds to facial actions over time; a name without a side means both."""

    def __init__(self, actions: np.ndarray, names: list[str]) -> None:
        self._actions, self._number = actions, {name: number for number, name in enumerate(names)}

    def numbers(self, name: str) -> list[int]:
        return [self._number[each] for each in (name, name + "Left", name + "Right") if each in self._number]

    def level(self, name: str, values: np.ndarray | float, where: slice = slice(None)) -> None:
        for number in self.numbers(name):
            self._actions[where, number] += values

    def blink(self, start: int, random: np.random.Generator) -> None:
        """Lids close in 80 ms and open in 160."""
        times = np.arange(len(self._actions)) - start
        shut, opened = 0.08 * FPS * _FINE, 0.17 * FPS * _FINE
        course = np.interp(times, (0, shut, shut + 0.03 * FPS * _FINE, shut + opened), (0, 1, 1, 0))
        course = course * course * (3 - 2 * course) * random.uniform(0.9, 1.0)
        for name in _LIDS:
            number = self._number[name]
            self._actions[:, number] = np.maximum(self._actions[:, number], course)

    def follow_gaze(self, gaze: np.ndarray) -> None:
        """Lids go up and down with the eyes."""
        down, up = np.clip(gaze[:, 1] / 30, 0, 1), np.clip(-gaze[:, 1] / 30, 0, 1)
        self.level("eyeLookDown", down)
        self.level("eyeLookUp", up)
        left, right = np.clip(gaze[:, 0] / 35, 0, 1), np.clip(-gaze[:, 0] / 35, 0, 1)
        # the head's left is the picture's right
        for name, value in (("eyeLookOutLeft", left), ("eyeLookInRight", left), ("eyeLookInLeft", right), ("eyeLookOutRight", right)):
            self.level(name, value)


def _speak(add: _Adder, steps: int, random: np.random.Generator) -> None:
    """Syllables, four or five a second, with pauses."""
    rate = FPS * _FINE
    loud = random.choice((0.0, 0.75, 1.0, 1.35), p=(0.1, 0.25, 0.4, 0.25)) * random.uniform(0.85, 1.15)
    at = int(-random.uniform(0, 0.4) * rate)
    while at < steps:
        if random.random() < 0.13:
            at += int(random.uniform(0.15, 0.6) * rate)
        weight = loud * random.uniform(0.65, 1.25)
        for sounds, short, long in ((_CONSONANTS, 0.05, 0.09), (_VOWELS, 0.09, 0.19)):
            length = int(random.uniform(short, long) * rate)
            sound = sounds[int(random.integers(len(sounds)))]
            where = slice(max(at, 0), max(at + length, 0))
            for name, value in sound.items():
                add.level(name, min(value * weight, 0.95), where)
            at += length


def _move_brows(add: _Adder, steps: int, random: np.random.Generator) -> None:
    base = _wander(steps, 0.5, random)
    add.level("browInnerUp", np.clip(0.25 * base, 0, 0.6))
    outer = np.clip(0.3 * _wander(steps, 0.5, random) + 0.1 * base, 0, 0.7)
    uneven = random.uniform(0, 0.3)
    add.level("browOuterUpLeft", outer)
    add.level("browOuterUpRight", outer * (1 - uneven))
    add.level("browDown", np.clip(-0.25 * base, 0, 0.5))
    add.level("noseSneer", np.clip(0.12 * _wander(steps, 0.4, random) - 0.08, 0, 0.3))
    add.level("mouthLeft", np.clip(0.12 * _wander(steps, 0.4, random), 0, 0.3))
    add.level("mouthRight", np.clip(0.12 * _wander(steps, 0.4, random), 0, 0.3))


def _blink_times(steps: int, random: np.random.Generator) -> list[int]:
    times, at = [], random.uniform(-0.5, 2.5)
    while at * FPS * _FINE < steps:
        times.append(int(at * FPS * _FINE))
        at += random.uniform(1.2, 4.5)
    return times


def _look(steps: int, random: np.random.Generator) -> np.ndarray:
    """float64 [steps, 2]: the eyes jump, and rest between."""
    gaze = np.zeros((steps, 2))
    at, where = 0, random.normal(0, (5, 3))
    while at < steps:
        length = int(random.uniform(0.3, 1.6) * FPS * _FINE)
        gaze[at : at + length] = where
        at += length
        where = random.normal(0, (9, 5)) if random.random() < 0.5 else random.normal(0, (2, 1.5))
    return np.clip(smoothed(gaze, 0.025), (-26, -16), (26, 18))


def _turn(steps: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    lively = random.uniform(0.35, 1.5)
    base = random.normal(0, (11, 5.5, 3.5))
    wander = np.stack([_wander(steps, seconds, random) for seconds in (0.42, 0.36, 0.5)], axis=1)
    nod = np.sin(2 * np.pi * (random.uniform(0.8, 1.8) * np.arange(steps) / (FPS * _FINE) + random.random()))
    turn = base + lively * wander * (7.5, 4.5, 3.0)
    turn[:, 1] += lively * 1.2 * nod * np.clip(_wander(steps, 0.6, random), 0, 1)
    limits = np.array([YAW, PITCH, ROLL])
    turn = limits * np.tanh(turn / limits)
    shift = lively * np.stack([_wander(steps, 0.7, random) for _ in range(3)], axis=1) * (0.006, 0.003, 0.008)
    return turn, shift + np.stack([turn[:, 0] * 0.0002, turn[:, 1] * 0.0001, 0 * turn[:, 0]], axis=1)


def _wander(steps: int, seconds: float, random: np.random.Generator) -> np.ndarray:
    """float64 [steps]: smooth, of unit spread, forgetting itself over about so many seconds."""
    reach = int(4 * seconds * FPS * _FINE) + 1
    noise = random.normal(size=steps + 2 * reach)
    smooth = np.convolve(noise, _bell(seconds), mode="same")[reach : reach + steps]
    return smooth / np.sqrt((_bell(seconds) ** 2).sum())


def _bell(seconds: float, rate: float = FPS * _FINE) -> np.ndarray:
    spread = seconds * rate
    reach = max(1, int(3.5 * spread))
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / spread) ** 2)
    return np.asarray(bell / bell.sum())


def smoothed(values: np.ndarray, seconds: float, rate: float = FPS * _FINE) -> np.ndarray:
    """Each column [steps, C], so many steps a second, averaged over so many seconds to either side; its ends are kept."""
    bell = _bell(seconds, rate)
    reach = len(bell) // 2
    padded = np.pad(values, ((reach, reach), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, bell, mode="valid") for column in padded.T], axis=1)
