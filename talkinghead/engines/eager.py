"""The eager engine: a person's generator run by torch as it is."""

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import Person
from ..landmarks.draw import landmark_image


class EagerEngine:
    """Renders a person.

    Args:
        person: whose generator and styles to run.
        device: where; the person's generator is moved there.
    """

    def __init__(self, person: Person, device: str | torch.device = "cpu") -> None:
        self.size = person.config.networks.image_size
        self.device = torch.device(device)
        self._generator = person.generator.to(self.device).eval()
        self._styles = person.styles.to(self.device)

    @torch.inference_mode()
    def run(self, points: np.ndarray | Tensor) -> np.ndarray:
        """Landmarks to frames.

        Args:
            points: float32 [B, 68, 2] as fractions of the person's crop.

        Returns:
            uint8 [B, size, size, 3], RGB.
        """
        points = torch.as_tensor(points, dtype=torch.float32, device=self.device)
        drawn = landmark_image(points, self.size)
        frames = self._generator(drawn, self._styles.expand(len(points), -1))
        return ((frames + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
