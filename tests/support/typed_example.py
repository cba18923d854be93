"""A user's script whose types are checked by mypy --strict; it is not run."""

import io
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from typing_extensions import assert_type

import talkinghead as th


def use_every_public_name(image: Image.Image, array: np.ndarray, tensor: torch.Tensor) -> None:
    """Call the public functions with every type of argument that they take."""
    model = th.load_model("portrait")
    assert_type(model, th.Model)
    assert_type(th.load_model(), th.Model)
    clip = th.read_clip(["a.jpg", image, array, tensor, b"...", io.BytesIO(b"...")], size=64)
    assert_type(clip, th.Clip)
    assert_type(clip[0], np.ndarray)
    assert_type(clip[1:3], th.Clip)
    assert_type(clip[[0, 2]], th.Clip)
    assert_type(clip.track, th.Track)
    assert_type(clip.track[0], np.ndarray)
    assert_type(clip.track[:2], th.Track)
    assert_type(list(clip), list[np.ndarray])
    person = th.finetune("tiny", "a.jpg", on_step=lambda step, steps, metrics: None)
    assert_type(person, th.Person)
    assert_type(th.finetune(model, clip), th.Person)
    assert_type(th.finetune(person, [image, image]), th.Person)
    assert_type(th.animate(person, "bob.mp4"), Iterator[np.ndarray])
    assert_type(th.animate(person, clip.track), Iterator[np.ndarray])
    assert_type(th.animate(person, array), Iterator[np.ndarray])
    assert_type(th.animate(person, (frame for frame in clip)), Iterator[np.ndarray])
    assert_type(person.animate("bob.mp4"), Iterator[np.ndarray])
    assert_type(person.to("cpu"), th.Person)
    assert_type(model.to("cuda"), th.Model)
    person.save("anna.safetensors", keep_discriminator=True)
    assert_type(person.export("anna.onnx", "onnx", precision="fp16", batch=1).psnr_db, float | None)
    engine = th.open_engine("anna.onnx", person)
    assert_type(engine, th.Engine)
    assert_type(engine.run(array), np.ndarray)
    assert_type(person.animate(clip, retarget="on", face=1, engine=engine, fast=True), Iterator[np.ndarray])
    th.animate_video(person, "bob.mp4", "out.mp4", engine=engine)
    th.live(person, "webcam", "out.mp4", retarget="on")
    assert_type(th.metrics.ssim(array, array), float)
    assert_type(th.train(["data"], "run", preset="tiny"), th.Model)


def use_wrong_types(person: th.Person) -> None:
    """Call functions with wrong types; mypy reports each line."""
    th.finetune("tiny", 7)  # error
    th.animate(person, 7)  # error
    th.animate(person, "bob.mp4", retarget=True)  # error
    th.load_person(3)  # error
    person.to(3)  # error
    person.animate(7)  # error
    person.animate("bob.mp4", retarget=True)  # error
    person.animate("bob.mp4", engine="anna.onnx")  # error
    person.animate("bob.mp4", retraget="on")  # error
    person.export("anna.onnx", "onnx", batch="1")  # error
    print(person.export("anna.onnx", "onnx").psnr)  # error
    th.finetune("tiny", "a.jpg", on_step=3)  # error
