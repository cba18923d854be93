import numpy as np
import torch

from talkinghead.landmarks.draw import MIRROR, PARTS, landmark_image


def test_every_point_is_drawn_and_mirrored_once():
    assert sorted({point for part, _ in PARTS for point in part}) == list(range(68))
    assert sorted(MIRROR) == list(range(68))
    assert [MIRROR[MIRROR[i]] for i in range(68)] == list(range(68))


def test_mirrored_face_with_its_points_renamed_has_the_mirrored_geometry(carphone_clip):
    points = torch.from_numpy(carphone_clip.track.landmarks[:1] / 64)
    flipped = torch.stack([1 - points[..., 0], points[..., 1]], 2)[:, list(MIRROR)]
    drawn, mirrored = landmark_image(points, 64), landmark_image(flipped, 64)
    covered, mirror_covered = (drawn > -0.9).any(1), (mirrored.flip(3) > -0.9).any(1)
    assert (covered == mirror_covered).float().mean() > 0.99
    assert not torch.allclose(drawn, mirrored.flip(3))  # left and right differ in colour


def test_colours_are_in_place(carphone_clip):
    points = torch.from_numpy(carphone_clip.track.landmarks[:1] / 64)
    drawn = ((landmark_image(points, 256)[0] + 1) * 127.5).round().permute(1, 2, 0).numpy()
    for point, colour in (
        (8, (255, 255, 255)),
        (19, (255, 0, 0)),
        (24, (0, 255, 0)),
        (28, (0, 0, 255)),
        (37, (255, 0, 255)),
        (57, (255, 255, 0)),
    ):
        x, y = (points[0, point] * 256).long().tolist()
        assert np.abs(drawn[y, x] - colour).max() <= 0.25 * 255, f"point {point}"  # its pixel centre is up to 0.71 away
