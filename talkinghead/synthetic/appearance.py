"""Appearance of a synthetic person: everything that is the same in all their clips, sampled from a seed."""

from dataclasses import dataclass

import numpy as np

from .head import Head

# sRGB of skin, from light to dark
_SKIN_PALETTE = np.array(
    [
        (236, 198, 178),
        (228, 184, 158),
        (214, 165, 133),
        (192, 140, 106),
        (160, 110, 80),
        (124, 82, 58),
        (92, 60, 44),
        (66, 44, 34),
    ]
)
_HAIR = {
    "black": (20, 17, 16),
    "dark brown": (46, 32, 25),
    "brown": (84, 56, 38),
    "light brown": (124, 88, 58),
    "blond": (196, 158, 104),
    "fair": (222, 192, 142),
    "red": (142, 66, 32),
    "grey": (128, 125, 122),
    "white": (208, 205, 200),
    "dyed": (120, 40, 70),
}
_IRIS = {
    "dark brown": (44, 26, 16),
    "brown": (88, 54, 28),
    "hazel": (110, 84, 42),
    "green": (88, 112, 70),
    "blue": (84, 122, 158),
    "grey": (116, 128, 136),
}
# sRGB of lipsticks
_LIPSTICK_PALETTE = np.array([(176, 42, 52), (150, 52, 66), (196, 84, 84), (120, 30, 44), (204, 104, 110)])
# sRGB of frames of glasses
_FRAME_PALETTE = np.array(
    [(18, 18, 20), (60, 40, 28), (120, 116, 110), (150, 120, 60), (96, 20, 26), (24, 40, 80)]
)
BEARDS = ("none", "stubble", "moustache", "goatee", "short", "full")
GARMENTS = ("crew", "v", "shirt", "turtleneck", "hood", "open")
PATTERNS = ("plain", "stripes", "checks", "knit")


@dataclass(frozen=True)
class Appearance:
    """Appearance of a synthetic person. Colours are linear RGB, lengths are in metres.

    Attributes:
        seed: seed of details such as single hairs.
        vertices: float32 [V, 3], the face at rest.
        tone: tone of the skin, 0 light to 1 dark.
        skin, lips, hair, beard, iris, cloth, accent, frame: colours.
        age: 0 child, 0.5 young, 1 old.
        female: 0..1.
        blemishes: amounts of freckles, blotches and oil of the skin, 0..1 each.
        blush: redness of cheeks and nose, 0..1.
        style, length, thickness, parting, curl, hairline: the hair.
        facial_hair: one of BEARDS.
        brows: thickness, arch, height and density of the brows.
        makeup: amount of eye makeup, 0..1.
        pupil: radius of the pupil as a share of the iris.
        glasses: 0 none, 1 round, 2 oval, 3 square.
        size: size factor of the glasses.
        garment: one of GARMENTS.
        pattern: one of PATTERNS.
    """

    seed: tuple[int, ...]
    vertices: np.ndarray
    tone: float
    skin: np.ndarray
    lips: np.ndarray
    hair: np.ndarray
    beard: np.ndarray
    iris: np.ndarray
    cloth: np.ndarray
    accent: np.ndarray
    frame: np.ndarray
    age: float
    female: float
    blemishes: tuple[float, float, float]
    blush: float
    style: str
    length: float
    thickness: float
    parting: float
    curl: float
    hairline: tuple[float, float]
    facial_hair: str
    brows: tuple[float, float, float, float]
    makeup: float
    pupil: float
    glasses: int
    size: float
    garment: str
    pattern: str


def linear(colour: np.ndarray | tuple[float, ...]) -> np.ndarray:
    """Return linear RGB, float32 0..1, of sRGB 0..255."""
    values = np.asarray(colour, dtype=np.float64) / 255
    return np.where(
        values <= 0.04045, values / 12.92, ((np.maximum(values, 0) + 0.055) / 1.055) ** 2.4
    ).astype(np.float32)


def sample_appearance(head: Head, seed: int, number: int) -> Appearance:
    """Return the appearance of a person.

    Args:
        head: the head model.
        seed: seed of the data set.
        number: number of the person in the data set.
    """
    random = np.random.default_rng((seed, number, 1))
    origin = random.dirichlet((0.45, 0.45, 0.6))
    female = float(random.random() < 0.5)
    age = float(np.clip(random.beta(1.6, 1.4), 0.03, 1))
    phenotype = _sample_phenotype(random, origin, female, age)
    vertices = head.neutral(phenotype, _sample_shape_weights(head, random))
    tone = float(np.clip(origin @ (0.82, 0.34, 0.2) + random.normal(0, 0.14), 0, 1))
    skin = linear(_blend(_SKIN_PALETTE, tone) * random.normal(1, (0.03, 0.03, 0.04)))
    hair_colour = np.array(_HAIR[_sample_hair_colour(random, tone, age)])
    hair = linear(hair_colour * random.normal(1, 0.1) * random.normal(1, 0.02, 3))
    style = _sample_hair_style(random, female, age, tone)
    facial_hair = "none"
    if not female and age > 0.2 and random.random() < 0.6:
        facial_hair = str(random.choice(BEARDS[1:], p=(0.35, 0.12, 0.15, 0.23, 0.15)))
    iris_colour = np.array(_IRIS[_sample_iris(random, tone)])
    # Arguments are sampled in this order; another order would give other people for the same seed.
    return Appearance(
        seed=(seed, number),
        vertices=vertices,
        tone=tone,
        skin=skin,
        lips=_sample_lip_colour(random, skin, female),
        hair=hair,
        beard=(hair * random.uniform(0.6, 1.1)).astype(np.float32),
        iris=linear(iris_colour * random.normal(1, 0.1, 3).clip(0.7, 1.3)),
        cloth=_sample_cloth_colour(random),
        accent=_sample_cloth_colour(random),
        frame=linear(random.choice(_FRAME_PALETTE)),
        age=age,
        female=female,
        blemishes=(
            float(random.beta(0.6, 2) * (1 - 0.7 * tone)),
            float(random.beta(0.8, 2)),
            float(random.beta(1, 2)),
        ),
        blush=float(random.beta(1.5, 2)),
        style=style,
        length=float(random.uniform(0, 1)),
        thickness=float(random.uniform(0.6, 1.3)),
        parting=float(random.choice((-1, 1)) * random.choice((0.0, 0.02, 0.032), p=(0.35, 0.35, 0.3))),
        curl=float(random.beta(1.2, 2)),
        hairline=_sample_hairline(random, female, age),
        facial_hair=facial_hair,
        brows=_sample_brows(random, female),
        makeup=float(random.uniform(0.3, 1) if female and random.random() < 0.6 else random.uniform(0, 0.2)),
        pupil=float(random.uniform(0.34, 0.55)),
        glasses=int(random.integers(1, 4)) if random.random() < 0.24 else 0,
        size=float(random.uniform(0.9, 1.15)),
        garment=str(random.choice(GARMENTS)),
        pattern=str(random.choice(PATTERNS, p=(0.5, 0.2, 0.15, 0.15))),
    )


def _sample_iris(random: np.random.Generator, tone: float) -> str:
    """Return a key of _IRIS; dark skin goes with brown eyes."""
    names = ("dark brown", "brown", "hazel", "green", "blue", "grey")
    light = np.clip(1.15 - 2.6 * tone, 0, 1)
    weights = np.array([0.8, 1, 0.7 * light, 0.5 * light, 1.3 * light, 0.5 * light])
    return str(random.choice(names, p=_normalize(weights)))


def _sample_lip_colour(random: np.random.Generator, skin: np.ndarray, female: float) -> np.ndarray:
    """Return the colour of the lips, with or without lipstick, float32 [3]."""
    has_lipstick = female and random.random() < 0.5
    share = random.uniform(0.2, 1) if has_lipstick else random.uniform(0, 0.12)
    lipstick = linear(random.choice(_LIPSTICK_PALETTE))
    lips = skin * (0.8, 0.45, 0.47)
    lips = lips * (1 - 0.75 * share) + lipstick * 0.75 * share
    return lips.astype(np.float32)


def _sample_hairline(random: np.random.Generator, female: float, age: float) -> tuple[float, float]:
    """Return how much higher the hairline is, and how far it recedes at the temples, in metres."""
    height = float(random.normal(0, 0.006))
    recession = random.normal(0, 0.012) + (0.014 * age if not female else 0)
    return height, float(max(0, recession))


def _sample_brows(random: np.random.Generator, female: float) -> tuple[float, float, float, float]:
    """Return thickness, arch in metres, height in metres and density of the brows."""
    return (
        float(random.uniform(0.6, 1.0) if female else random.uniform(0.8, 1.5)),
        float(random.normal(0, 0.0022)),
        float(random.normal(0, 0.0015)),
        float(random.uniform(0.55, 1.0)),
    )


def _sample_phenotype(
    random: np.random.Generator, origin: np.ndarray, female: float, age: float
) -> dict[str, float]:
    """Return the parameters of `Head.neutral`; origin [3] are shares of african, asian and caucasian."""
    return {
        "gender": float(np.clip(female + random.normal(0, 0.22), 0, 1)),
        "age": float(np.interp(age, (0, 0.12, 0.5, 1), (0.36, 0.5, 0.68, 1.0))),
        "muscle": float(random.beta(2, 2)),
        "weight": float(random.beta(1.7, 1.7)),
        "height": 0.5,
        "proportions": float(random.uniform(0, 1)),
        "african": float(origin[0]),
        "asian": float(origin[1]),
        "caucasian": float(origin[2]),
    }


# standard deviations of local shape changes, as shares of their range
_DEVIATIONS = {
    "cheek": 0.32,
    "chin": 0.34,
    "ear": 0.4,
    "eyebrows": 0.3,
    "eye": 0.26,
    "forehead": 0.35,
    "head": 0.26,
    "mouth": 0.28,
    "neck": 0.12,
    "nose": 0.33,
}
_MAX_CHANGE = 0.85  # share of the range


def _sample_shape_weights(head: Head, random: np.random.Generator) -> np.ndarray:
    """Return the weights of local shape changes, float32 [L].

    Opposites exclude each other; left and right differ by a tenth of the deviation.
    """
    names = [str(name) for name in head.local_names]
    values: dict[str, float] = {}
    weights = np.zeros(len(names), np.float32)
    opposite: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        opposite.setdefault(name.rsplit("-", 1)[0], []).append(index)
    for stem, indices in opposite.items():
        side, _, plain = stem.partition("-")
        plain = plain if side in ("l", "r") else stem
        deviation = _DEVIATIONS.get(plain.split("-")[0])
        # Skip moves of the lips, which the teeth do not follow, and of the head, which the neck does not.
        if deviation is None or plain in ("mouth-trans", "nose-trans", "head-trans", "neck-trans"):
            continue
        if plain not in values:
            values[plain] = float(np.clip(random.normal(0, deviation), -_MAX_CHANGE, _MAX_CHANGE))
        value = values[plain] + (random.normal(0, 0.1 * deviation) if side in ("l", "r") else 0)
        if value >= 0 or len(indices) > 1:
            weights[indices[0 if value >= 0 else 1]] = abs(value)
    return weights


def _blend(palette: np.ndarray, share: float) -> np.ndarray:
    """Return the colour at a share, 0..1, of the way through a palette [N, 3]."""
    index = share * (len(palette) - 1)
    return np.array([np.interp(index, np.arange(len(palette)), palette[:, channel]) for channel in range(3)])


def _sample_hair_colour(random: np.random.Generator, tone: float, age: float) -> str:
    """Return a key of _HAIR; dark skin goes with dark hair, old age with grey."""
    if random.random() < max(0, 1.6 * (age - 0.55)):
        return str(random.choice(("grey", "white"), p=(0.65, 0.35)))
    light = np.clip(1.1 - 2.4 * tone, 0, 1)
    names = ("black", "dark brown", "brown", "light brown", "blond", "fair", "red", "dyed")
    weights = np.array(
        [
            0.25 + 1.4 * tone,
            0.7,
            0.15 + 0.6 * light,
            0.05 + 0.5 * light,
            0.55 * light,
            0.3 * light,
            0.25 * light,
            0.06,
        ]
    )
    return str(random.choice(names, p=_normalize(weights)))


def _sample_hair_style(random: np.random.Generator, female: float, age: float, tone: float) -> str:
    """Return a hair style, see `hair_styles`."""
    if female:
        weights = {
            "crop": 0.4,
            "short": 0.6,
            "side": 0.6,
            "fringe": 1.3,
            "bob": 1.6,
            "long": 2.2,
            "wavy": 1.8,
            "curly": 1,
            "bun": 1.3,
        }
        weights["afro"] = 2.0 * tone**2
    else:
        weights = {
            "bald": 0.2 + 1.4 * age**2,
            "shaved": 0.9,
            "crop": 1.5,
            "short": 1.9,
            "side": 1.5,
            "back": 1.1,
            "fringe": 0.7,
        }
        weights |= {"curly": 0.7, "bob": 0.15, "long": 0.25, "wavy": 0.2, "bun": 0.1, "afro": 1.5 * tone**2}
    return str(random.choice(list(weights), p=_normalize(np.array(list(weights.values())))))


def _sample_cloth_colour(random: np.random.Generator) -> np.ndarray:
    """Return a colour of clothes: mostly muted, sometimes bright."""
    hue, grey = random.random(3), random.uniform(0.05, 0.95)
    colourful = random.beta(1.2, 1.8)
    mixed = grey * (1 - colourful) + colourful * hue
    return linear(255 * (0.06 + 0.86 * mixed))


def _normalize(weights: np.ndarray) -> np.ndarray:
    """Return weights divided by their sum."""
    return weights / weights.sum()
