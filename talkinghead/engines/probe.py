"""Whether an engine shows the person it was made from: a few frames beside torch's.

Builders choose among kernels by speed, fuse, and round; a refit may miss a weight. So every engine that can run where it is made is
compared before it is kept.
"""

from os import PathLike

import numpy as np
import torch

from ..checkpoint import Person, fingerprint
from ..errors import TalkingheadError
from ..landmarks.draw import landmark_image
from ..networks.references import ReferenceViewer
from .engine import Engine, levels
from .manifest import Manifest

LEAST = {"fp32": 50.0, "fp16": 40.0, "bf16": 30.0}
"""PSNR in dB below which an engine is refused."""
_MOUTH = slice(48, 68)


def probe_points(reference: np.ndarray) -> np.ndarray:
    """A face at rest [68, 2] and, from it, others: turned, nearer, speaking. float32 [4, 68, 2]."""
    centre = reference.mean(axis=0)
    posed = np.repeat((reference - centre)[None], 4, axis=0).astype(np.float64)
    angle = np.deg2rad(12)
    posed[1] @= np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    posed[2] = posed[2] * 1.1 + [0.03, -0.02]
    lips = posed[3, _MOUTH]
    posed[3, _MOUTH] = lips + (lips - lips.mean(axis=0)) * [0, 1.5]
    return (posed + centre).astype(np.float32)


def probe(engine: Engine, person: Person) -> float:
    """PSNR in dB of the engine's frames of `probe_points` against plain torch in float32; infinite where they are equal.

    Where styles are an input, every second row is of somebody else.

    Raises:
        TalkingheadError: the frames are further from torch's than the engine's precision explains.
    """
    points = probe_points(person.reference)
    engine.show(person)
    styles = person.styles.detach().cpu().expand(len(points), -1).clone()
    given = None
    if engine.manifest.styles == "input":
        styles[1::2] *= 0.8
        given = styles.numpy()
    # one frame, then several: builders choose kernels for each number, and a graph is captured for each
    made = np.concatenate([engine.run(points[part], None if given is None else given[part]) for part in (slice(1), slice(1, None))])
    with torch.no_grad():
        generator = person.generator
        at = generator.out.weight.device
        views = () if person.references is None else (ReferenceViewer(person.references, at)(torch.from_numpy(points).to(at)),)
        wanted = generator(landmark_image(torch.from_numpy(points), engine.manifest.layer_size).to(at), styles.to(at), *views).cpu()
    found = psnr(made, levels(wanted.numpy()))
    least = LEAST[engine.manifest.precision]
    if not found >= least:
        raise TalkingheadError(
            f"{engine.manifest.format}: its frames are {found:.1f} dB from torch's, at least {least:.0f} were expected of "
            f"{engine.manifest.precision}: a weight is wrong or missing, or numbers overflow; nothing is kept, try another precision"
        )
    return found


def belongs(manifest: Manifest, person: Person, where: str | PathLike[str]) -> None:
    """Do nothing if the engine of the manifest, in the file `where`, was made from the person's weights.

    Raises:
        TalkingheadError: it was made from others.
    """
    if manifest.weights != fingerprint(person):
        made_from = f" ({manifest.person})" if manifest.person else ""
        raise TalkingheadError(f"{where}: was made from other weights than this person's{made_from}; export this person, or name that one")


def psnr(made: np.ndarray, wanted: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 pictures in dB."""
    squared = float(np.square(made.astype(np.float64) - wanted).mean())
    return float("inf") if squared == 0 else 10 * float(np.log10(255**2 / squared))
