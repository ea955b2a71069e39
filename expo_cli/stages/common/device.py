"""Device and precision, resolved once at the start of a stage."""

import torch

from expo_cli.errors import UsageError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def default_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def precisions(device: torch.device) -> list[str]:
    """Those that the device computes in; a CPU without bf16 instructions is slow in bf16."""
    if device.type == "cpu":
        return ["fp32", "bf16"]
    bf16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    return [name for name in DTYPES if name != "bf16" or bf16]


def resolve_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype called `precision`; `auto` is the fastest one that is accurate on this device.

    Raises UsageError for fp16 on a CPU, which has no fast half precision.
    """
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("fp16 needs a GPU; use bf16 or fp32 on a CPU")
    if precision != "auto":
        return DTYPES[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    fast_bf16 = any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
    return torch.bfloat16 if fast_bf16 else torch.float32
