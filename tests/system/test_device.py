from types import SimpleNamespace

import pytest
import torch

import talkinghead.cli as cli
from talkinghead.errors import TalkingheadError
from talkinghead.model import random_model
from talkinghead.pipelines.animate_video import animate_video
from talkinghead.system import device as devices
from talkinghead.system.device import bfloat16_is_faster, choose_device, training_precision


def test_auto_device_prefers_available_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
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
        ("gpu", "device 'gpu': is unknown to torch; choose one of cpu, cuda, auto"),
        ("mps", "device 'mps': networks run on cpu or cuda"),
    ],
)
def test_missing_device_reports_user_error(name, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(TalkingheadError, match=message):
        choose_device(name)


@pytest.mark.parametrize("command", ["finetune", "train"])
def test_command_checks_device_before_work(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert (
        cli.main([command, str(tmp_path), "--out", str(tmp_path / "out"), "--device", "cuda"])
        == cli.USER_ERROR
    )
    assert "device 'cuda'" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_model_to_device_moves_all_networks(monkeypatch):
    monkeypatch.setattr("talkinghead.model.choose_device", torch.device)  # which no user may choose
    model = random_model("tiny")
    assert (
        model.device == torch.device("cpu")
        and model.to("meta") is model
        and model.device == torch.device("meta")
    )
    assert {
        p.device.type
        for network in (model.embedder, model.generator, model.discriminator)
        for p in network.parameters()
    } == {"meta"}


def test_animation_checks_device_before_reading_driver(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(TalkingheadError, match="device 'cuda'"):
        animate_video(SimpleNamespace(placed=None), "not-there.mp4", "out.mp4", device="cuda")


def test_bfloat16_used_only_where_faster(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(devices, "cpu_features", lambda: {"amx_bf16"})
    for times, faster in ((2.0, True), (1.3, False)):
        monkeypatch.setattr(devices, "_bfloat16_speedup", lambda threads, times=times: times)
        assert bfloat16_is_faster(cpu) is faster
        assert (
            training_precision(cpu, "bf16") == ("bf16" if faster else "fp32")
            and training_precision(cpu, "fp32") == "fp32"
        )
    assert bfloat16_is_faster(torch.device("cuda"))
    monkeypatch.setattr(devices, "cpu_features", set)  # emulated
    monkeypatch.setattr(devices, "_bfloat16_speedup", lambda threads: 2.0)
    assert not bfloat16_is_faster(cpu)


def test_bfloat16_speedup_measures_both_precisions(monkeypatch):
    ran, convolve = [], torch.nn.functional.conv2d
    monkeypatch.setattr(
        devices.F,
        "conv2d",
        lambda x, weight, padding: (
            ran.append((x.dtype, weight.dtype)) or convolve(x, weight, padding=padding)
        ),
    )
    devices._bfloat16_speedup.cache_clear()
    assert 0 < devices._bfloat16_speedup(1) < float("inf")
    assert ran[:2] == [(dtype, dtype) for dtype in (torch.float32, torch.bfloat16)] and ran == ran[:2] * (
        len(ran) // 2
    )
    devices._bfloat16_speedup.cache_clear()
