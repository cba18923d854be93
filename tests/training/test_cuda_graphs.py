"""Inputs and outputs of captured steps on a fake GPU, whose graph runs the step on the captured tensors."""

from contextlib import contextmanager, nullcontext

import torch

from talkinghead.training.cuda_graphs import GraphedSteps


class FakeTrainer:
    def __init__(self):
        self.ran = []

    def step(self, networks, real, landmark_images, target_features=None):
        self.ran.append(
            [real, landmark_images, *(layer for layers in target_features or [] for layer in layers)]
        )
        self.last = lambda: self.step(networks, real, landmark_images, target_features)
        return {"sum": sum(tensor.sum() for tensor in self.ran[-1])}


def test_graph_replay_reads_inputs_of_its_call(monkeypatch):
    trainer, stream_devices, gpu = FakeTrainer(), [], torch.device("cuda:1")

    class Graph:
        def replay(self):
            self.metrics["sum"].copy_(self.run_step()["sum"])

    @contextmanager
    def capture(graph, stream):
        yield
        trainer.ran.pop()  # a capture runs nothing
        graph.run_step, graph.metrics = trainer.last, {"sum": torch.zeros(())}

    class Stream:
        def __init__(self, device=None):
            stream_devices.append(device)

        def wait_stream(self, other):
            pass

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    current = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext(current.append(device)))
    monkeypatch.setattr(torch.cuda, "graph", capture)
    steps, inputs = GraphedSteps(trainer, [], gpu), []
    for number in range(12):
        size = 2 + number % 2
        real, landmark_images = torch.full((size, 3), float(number)), torch.full((size, 3), 100.0 + number)
        target_features = [
            [torch.full((size, 1), -float(number))],
            [torch.full((size, 2), 7.0), torch.full((size, 1), 0.5)],
        ]
        inputs.append([real, landmark_images, *target_features[0], *target_features[1]])
        steps(real, landmark_images, target_features)
        assert len(trainer.ran) == number + 1, "every step runs once"
        assert current == [gpu] * (number + 1) and stream_devices[0] == gpu
        for seen, expected in zip(trainer.ran[-1], inputs[-1], strict=True):
            assert torch.equal(seen, expected)
    held = {id(tensor) for tensor in trainer.ran[-1]}
    assert held.isdisjoint(id(tensor) for tensor in inputs[-1]) and held == {
        id(tensor) for tensor in trainer.ran[-3]
    }
