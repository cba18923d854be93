"""The interface of all engines: landmarks or landmark images, and styles, to frames."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import Person
from ..clip import POINTS
from ..errors import TalkingheadError
from ..landmarks.draw import landmark_image
from ..networks.references import ReferenceViewer
from ..torch_state import fork_count, from_numpy, with_default_torch_state
from .manifest import Manifest


class Engine(ABC):
    """Renders a person, or, where styles are an input, people.

    Attributes:
        manifest: what it holds.
        styles: float32 [1, S] that are used where `run` is given none; None where they are inside.
        viewer: makes views of a person's references; None where the generator is not guided by any, or before a person was given.
    """

    manifest: Manifest
    styles: np.ndarray | None = None
    viewer: ReferenceViewer | None = None
    _forks: int

    survives_fork = False
    """Whether it runs in a process forked from the one that opened it; a runtime with threads of its own waits for them for ever."""

    advice = "export it again, or render with torch"
    """What to do when it fails to run."""

    def __new__(cls, *args: object, **kwargs: object) -> "Engine":
        self = super().__new__(cls)
        self._forks = fork_count()
        return self

    @property
    def size(self) -> int:
        """Height and width of its frames."""
        return self.manifest.size

    @with_default_torch_state
    def show(self, person: Person) -> None:
        """Take what the engine needs of a person besides its own weights: styles where they are an input, and references."""
        if self.manifest.styles == "input":
            self.styles = person.styles.detach().float().cpu().numpy()
        if person.references is not None:
            self.viewer = ReferenceViewer(person.references)

    @contextmanager
    def showing(self, person: Person) -> Iterator[None]:
        """Take what `show` takes for as long as the block lasts; afterwards the engine shows whom it showed before."""
        before = self.styles, self.viewer
        self.show(person)
        try:
            yield
        finally:
            self.styles, self.viewer = before

    @with_default_torch_state
    def run(self, given: np.ndarray | Tensor, styles: np.ndarray | Tensor | None = None) -> np.ndarray:
        """Landmarks, or landmark images, to frames.

        Args:
            given: float32 [B, 68, 2] as fractions of the person's crop; for an engine whose input is "image" they are drawn first. Such an
                engine also takes landmark images float32 [B, 3, size, size] in [-1, 1], unless references guide it.
            styles: float32 [S], [1, S] or [B, S] for an engine whose styles are an input: whose face each row shows. By default `styles`.

        Returns:
            uint8 [B, size, size, 3], RGB.

        Raises:
            TalkingheadError: a shape is not as above, a value is not finite, the engine lacks references, lacks or has no use for
                styles, or this process was forked from the one that opened it.
        """
        if fork_count() != self._forks and not self.survives_fork:
            raise TalkingheadError(
                f"{self.manifest.format}: was opened before this process was forked, and its threads are gone; open it in this process"
            )
        given = _array(given)
        layer_size = self.manifest.layer_size
        image = (3, layer_size, layer_size)
        takes = "points" if self.manifest.guided else self.manifest.input
        if given.shape[1:] != (POINTS, 2) and (takes == "points" or given.shape[1:] != image):
            wanted = f"landmarks [B, {POINTS}, 2]" + ("" if takes == "points" else f" or landmark images {['B', *image]}")
            raise TalkingheadError(f"engine: {wanted} were expected, got {list(given.shape)}")
        rows = self._rows(styles, len(given))
        if not np.isfinite(given).all() or (rows is not None and not np.isfinite(rows).all()):
            raise TalkingheadError("engine: landmarks, images or styles are not finite; leave those frames out")
        most = self.manifest.batch
        pieces = [
            self._run_reporting(self._inputs(given[start : start + most], None if rows is None else rows[start : start + most]))
            for start in range(0, len(given), most)
        ]
        made = pieces[0] if len(pieces) == 1 else np.concatenate(pieces) if pieces else np.empty((0, self.size, self.size, 3), np.uint8)
        return made if made.dtype == np.uint8 else levels(made)

    def _rows(self, styles: np.ndarray | Tensor | None, count: int) -> np.ndarray | None:
        if self.manifest.styles == "constant":
            if styles is not None:
                raise TalkingheadError("engine: holds one person, whose styles are inside; leave styles out, or export one of --steps 0")
            return None
        chosen = self.styles if styles is None else styles
        if chosen is None:
            raise TalkingheadError("engine: was made for many people; give the styles of the one to show")
        rows = np.atleast_2d(_array(chosen))
        if rows.shape not in {(1, self.manifest.style_length), (count, self.manifest.style_length)}:
            raise TalkingheadError(
                f"engine: styles must be [1 or {count}, {self.manifest.style_length}], got {list(rows.shape)}; are they of another preset?"
            )
        return np.array(np.broadcast_to(rows, (count, rows.shape[1])))

    def _inputs(self, given: np.ndarray, styles: np.ndarray | None) -> dict[str, np.ndarray]:
        """Return the arguments of a run by name, in the order of the network's."""
        inputs = {self.manifest.input: given}
        if self.manifest.input == "image" and given.shape[1:] == (POINTS, 2):
            inputs["image"] = landmark_image(from_numpy(given), self.manifest.layer_size).numpy()
        if styles is not None:
            inputs["styles"] = styles
        if self.manifest.guided:
            if self.viewer is None:
                raise TalkingheadError("engine: shows a person's pictures and has none; open it with the person, or call show(person)")
            views = self.viewer(from_numpy(given))
            inputs |= {name: np.ascontiguousarray(view.numpy()) for name, view in views._asdict().items()}
        return inputs

    def _run_reporting(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        try:
            return self._run(inputs)
        except (TalkingheadError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # each runtime has a kind of its own for every complaint
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            raise TalkingheadError(f"{self.manifest.format}: running failed ({reason}); {self.advice}") from error

    @abstractmethod
    def _run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Up to `manifest.batch` rows of each input, to what it gives: uint8 [B, size, size, 3] or float [B, 3, size, size]."""


def _array(given: np.ndarray | Tensor) -> np.ndarray:
    if isinstance(given, Tensor):
        given = given.detach().float().cpu().numpy()
    return np.require(given, np.float32, ["C", "W"])


def levels(pictures: np.ndarray) -> np.ndarray:
    """Pictures float [B, 3, H, W] in [-1, 1] as uint8 [B, H, W, 3]."""
    return ((pictures + 1) * 127.5).round().clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
