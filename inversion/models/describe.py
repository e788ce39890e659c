"""What a loaded model is: the record that a run keeps, and the processor that it is on."""

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from inversion.models.bridge import plain_model


def describe_model(model: TransformerBridge) -> dict[str, Any]:
    """Return what a reader needs to repeat a measurement: name, revision, dtype, device, attention, size.

    Where the weights were dequantised or merged with an adapter, that too. :func:`inversion.models.fingerprint` tells
    models of the same name apart.
    """
    hf_model: Any = model.original_model
    # Of the model as it was: beside a fused projection a bridge may hold q, k and v once more.
    parameters = list(plain_model(model, hooked=False).parameters())
    return {
        "model": model.cfg.model_name,
        "revision": getattr(hf_model.config, "_commit_hash", None),
        "architecture": model.cfg.architecture,
        "parameters": sum(p.numel() for p in parameters),
        "dtype": str(parameters[0].dtype).removeprefix("torch."),
        "device": parameters[0].device.type,
        "attention": hf_model.config._attn_implementation,
        **getattr(hf_model, "provenance", {}),
    }


@cache
def processor_of(device: torch.device) -> str:
    """Name the processor that computes on a device; on a CPU with the instructions that torch uses there.

    The same weights on the same words give other last digits on another kind, and a training that feeds on its own
    numbers other third digits.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    return f"{_cpu_name()}, {torch.backends.cpu.get_cpu_capability()}"


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")  # of Linux, where platform.processor() is often empty
    lines = information.read_text().splitlines() if information.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
