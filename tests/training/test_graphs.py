"""What a captured step is given and gives back, on a GPU of straw: its graph runs the learner again on the tensors it was captured with."""

from contextlib import contextmanager, nullcontext

import torch

from talkinghead.training.graphs import GraphedSteps


class Learner:
    def __init__(self):
        self.ran = []

    def step(self, networks, real, drawn, wanted=None):
        self.ran.append([real, drawn, *(layer for layers in wanted or [] for layer in layers)])
        self.last = lambda: self.step(networks, real, drawn, wanted)
        return {"sum": sum(tensor.sum() for tensor in self.ran[-1])}


def test_a_replay_sees_the_pictures_of_its_call(monkeypatch):
    learner, made_on, gpu = Learner(), [], torch.device("cuda:1")

    class Graph:
        def replay(self):
            self.figures["sum"].copy_(self.again()["sum"])

    @contextmanager
    def capture(graph, stream):
        yield
        learner.ran.pop()  # a capture runs nothing
        graph.again, graph.figures = learner.last, {"sum": torch.zeros(())}

    class Stream:
        def __init__(self, device=None):
            made_on.append(device)

        def wait_stream(self, other):
            pass

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    current = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext(current.append(device)))
    monkeypatch.setattr(torch.cuda, "graph", capture)
    steps, given = GraphedSteps(learner, [], gpu), []
    for number in range(12):
        size = 2 + number % 2
        real, drawn = torch.full((size, 3), float(number)), torch.full((size, 3), 100.0 + number)
        wanted = [[torch.full((size, 1), -float(number))], [torch.full((size, 2), 7.0), torch.full((size, 1), 0.5)]]
        given.append([real, drawn, *wanted[0], *wanted[1]])
        steps(real, drawn, wanted)
        assert len(learner.ran) == number + 1, "every step runs once"
        assert current == [gpu] * (number + 1) and made_on[0] == gpu
        for seen, wished in zip(learner.ran[-1], given[-1], strict=True):
            assert torch.equal(seen, wished)
    held = {id(tensor) for tensor in learner.ran[-1]}
    assert held.isdisjoint(id(tensor) for tensor in given[-1]) and held == {id(tensor) for tensor in learner.ran[-3]}
