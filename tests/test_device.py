import pytest
import torch

import talkinghead.cli as cli
from talkinghead import device as devices
from talkinghead.animate import animate_video
from talkinghead.checkpoint import random_model
from talkinghead.device import bfloat16_is_faster, choose_device, training_precision
from talkinghead.errors import TalkingheadError


def test_a_gpu_is_taken_where_torch_sees_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("auto") == torch.device("cuda") == choose_device("cuda")
    assert choose_device("cuda:0") == torch.device("cuda:0")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda:1", r"device 'cuda:1': torch \S+ sees (no GPU, for it is a CPU build|0 GPUs); choose cpu"),
        ("gpu", "device 'gpu': torch knows none of this name; choose one of cpu, cuda, auto"),
        ("mps", "device 'mps': networks run on cpu or cuda"),
    ],
)
def test_a_device_that_is_not_there_is_told(name, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(TalkingheadError, match=message):
        choose_device(name)


@pytest.mark.parametrize("verb", ["finetune", "train"])
def test_the_command_tells_it_before_the_work(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert cli.main([verb, str(tmp_path), "--out", str(tmp_path / "out"), "--device", "cuda"]) == cli.USER_ERROR
    assert "device 'cuda'" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_model_moves_as_a_whole():
    model = random_model("tiny")
    assert model.device == torch.device("cpu") and model.to("meta") is model and model.device == torch.device("meta")
    assert {p.device.type for network in (model.embedder, model.generator, model.discriminator) for p in network.parameters()} == {"meta"}


def test_animation_tells_it_before_the_drive_is_read(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(TalkingheadError, match="device 'cuda'"):
        animate_video(None, "not-there.mp4", "out.mp4", device="cuda")


def test_bfloat16_is_taken_where_it_is_faster(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(devices, "cpu_features", lambda: {"amx_bf16"})
    for times, faster in ((2.0, True), (1.3, False)):
        monkeypatch.setattr(devices, "_measured", lambda threads, times=times: times)
        assert bfloat16_is_faster(cpu) is faster
        assert training_precision(cpu, "bf16") == ("bf16" if faster else "fp32") and training_precision(cpu, "fp32") == "fp32"
    assert bfloat16_is_faster(torch.device("cuda"))
    monkeypatch.setattr(devices, "cpu_features", set)  # emulated
    monkeypatch.setattr(devices, "_measured", lambda threads: 2.0)
    assert not bfloat16_is_faster(cpu)


def test_both_precisions_are_measured(monkeypatch):
    ran, convolve = [], torch.nn.functional.conv2d
    monkeypatch.setattr(
        devices.F, "conv2d", lambda x, weight, padding: ran.append((x.dtype, weight.dtype)) or convolve(x, weight, padding=padding)
    )
    devices._measured.cache_clear()
    assert 0 < devices._measured(1) < float("inf")
    assert ran[:2] == [(dtype, dtype) for dtype in (torch.float32, torch.bfloat16)] and ran == ran[:2] * (len(ran) // 2)
    devices._measured.cache_clear()
