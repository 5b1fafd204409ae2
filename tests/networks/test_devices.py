"""Devices and number formats that parameters ask for."""

import pytest
import torch

from aepsl.errors import AepslError
from aepsl.networks.devices import pick_device, pick_precision


def test_auto_takes_cuda_then_apples_then_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(AepslError, match=r"compute\.device: cuda:1 asked for, but torch finds no CUDA device"):
        pick_device("cuda:1")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto") == torch.device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda:1")


def test_a_device_that_is_not_there_is_told_by_who_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(AepslError, match=r"^compute\.device: cuda:2 asked for, but torch finds no CUDA device above cuda:1; use auto or cpu"):
        pick_device("cuda:2")
    with pytest.raises(AepslError, match=r"^device: mps asked for, but torch finds no Apple GPU; use auto or cpu"):
        pick_device("mps", parameter="device")


@pytest.mark.parametrize(("supported", "name", "expected"), [(True, "auto", torch.bfloat16), (False, "auto", torch.float32),
                                                             (True, "bfloat16", torch.bfloat16), (False, "float16", torch.float16),
                                                             (True, "float32", torch.float32)])
def test_auto_is_bfloat16_on_the_cuda_devices_that_have_it(monkeypatch: pytest.MonkeyPatch, supported: bool, name: str,
                                                           expected: torch.dtype) -> None:
    without_gpu(monkeypatch, supported)
    assert pick_precision(name, torch.device("cuda:0")) == expected


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_elsewhere_auto_is_float32_and_float16_is_refused(device: str) -> None:
    assert pick_precision("auto", torch.device(device)) == torch.float32
    assert pick_precision("bfloat16", torch.device(device)) == torch.bfloat16
    with pytest.raises(AepslError, match=f"compute.precision: float16 is for CUDA devices, found {device}"):
        pick_precision("float16", torch.device(device))


def test_bfloat16_on_a_device_without_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    without_gpu(monkeypatch, False)
    with pytest.raises(AepslError, match=r"compute.precision: bfloat16 asked for, but Old does not compute with it"):
        pick_precision("bfloat16", torch.device("cuda:0"))


def without_gpu(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.inference_mode())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old")
