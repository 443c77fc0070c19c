"""Device: a GPU computes in bfloat16, a CPU in float32, and a GPU without bfloat16 is refused."""

import click
import pytest
import torch

from stages.common import device


def test_without_a_gpu_the_cpu_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    chosen = device.choose()
    assert (chosen.name, chosen.dtype) == ("cpu", torch.float32)


def test_a_gpu_computes_in_bfloat16_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    chosen = device.choose()
    assert (chosen.name, chosen.dtype) == ("cuda", torch.bfloat16)
    assert "Some GPU" in chosen.reason
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(click.ClickException, match="Some GPU has no bfloat16; hide it with CUDA_VISIBLE_DEVICES="):
        device.choose()
