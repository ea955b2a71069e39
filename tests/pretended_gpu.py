"""A GPU that is only pretended: tensors stay on the CPU, but each says where it would be, and what a
real GPU would refuse is refused.

Finds tensors that were not moved, moved too late or not moved back; not what only kernels can tell.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.overrides import TorchFunctionMode

CPU, CUDA = torch.device("cpu"), torch.device("cuda")

# These take tensors of any devices; all others want one device.
MOVING = {Tensor.to, Tensor.cpu, Tensor.cuda, Tensor.copy_, Tensor.type, Tensor.data.__set__}
INDEXING = {Tensor.__getitem__, Tensor.__setitem__}
ON_THE_CPU_ONLY = {Tensor.numpy, Tensor.__array__}


class WrongDevice(RuntimeError):
    pass


def place(tensor: Tensor) -> torch.device:
    return tensor.__dict__.get("pretended", CPU)


def put(tensor: Tensor, device: torch.device) -> Tensor:
    tensor.__dict__["pretended"] = device
    return tensor


def asked(device: Any) -> torch.device | None:
    """The device that an argument names, if it names one."""
    if isinstance(device, Tensor):
        return place(device)
    if isinstance(device, str) and device.split(":")[0] in ("cpu", "cuda"):
        device = torch.device(device)
    return torch.device(device.type) if isinstance(device, torch.device) else None


def leaves(arguments: Any) -> Iterator[Any]:
    if isinstance(arguments, dict):
        arguments = arguments.values()
    elif not isinstance(arguments, tuple | list):
        yield arguments
        return
    for argument in arguments:
        yield from leaves(argument)


class PretendedGPU(TorchFunctionMode):
    """Within it "cuda" is a device like another."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in (torch._C._nn._parse_to, torch._has_compatible_shallow_copy_type):
            return function(*args, **kwargs)
        if function == Tensor.device.__get__:
            return place(args[0])
        if function == Tensor.is_cuda.__get__:
            return place(args[0]) == CUDA
        tensors = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if function in ON_THE_CPU_ONLY and any(place(t) == CUDA for t in tensors):
            raise WrongDevice("can't convert a cuda tensor to numpy")
        target = self.target(function, args, kwargs)
        if function not in MOVING:
            self.check(function, args, kwargs, tensors)
        device = target or (CUDA if any(place(t) == CUDA for t in tensors) else CPU)
        if isinstance(kwargs.get("generator"), torch.Generator) and device == CUDA:
            raise WrongDevice("a generator of the CPU for a tensor on cuda")
        if target is not None:
            args = tuple(map(on_the_cpu, args))
            kwargs = {name: on_the_cpu(argument) for name, argument in kwargs.items()}
        result = function(*args, **kwargs)
        if function == Tensor.data.__set__:
            put(args[0], place(args[1]))
        if function == Tensor.__setitem__ or self.writes(function):
            return result
        # What is moved to where it is stays the same tensor; on the CPU all are.
        if function in MOVING and isinstance(result, Tensor) and result is args[0]:
            return result if place(result) == device else put(result.view_as(result), device)
        for leaf in leaves(result):
            if isinstance(leaf, Tensor):
                put(leaf, device)
        return result

    def writes(self, function: Any) -> bool:
        name = getattr(function, "__name__", "")
        return name.endswith("_") and not name.endswith("__")

    def target(self, function: Any, args: tuple, kwargs: dict) -> torch.device | None:
        if function is Tensor.cpu:
            return CPU
        if function is Tensor.cuda:
            return CUDA
        if function is Tensor.to:
            named = [asked(argument) for argument in (*args[1:], *kwargs.values())]
            return next((device for device in named if device is not None), None)
        return asked(kwargs.get("device"))

    def check(self, function: Any, args: tuple, kwargs: dict, tensors: list[Tensor]) -> None:
        if function in INDEXING:
            indices = [leaf for leaf in leaves(args[1]) if isinstance(leaf, Tensor)]
            if place(args[0]) == CPU and any(place(index) == CUDA for index in indices):
                raise WrongDevice("indices on cuda for a tensor on the CPU")
            return
        # A number on the CPU goes with everything.
        found = {place(t) for t in tensors if t.dim() or place(t) == CUDA}
        if len(found) > 1:
            name = getattr(function, "__name__", function)
            raise WrongDevice(f"{name}: expected all tensors on one device, found {found}")


def on_the_cpu(argument: Any) -> Any:
    if isinstance(argument, torch.device) and argument.type == "cuda":
        return CPU
    return "cpu" if isinstance(argument, str) and argument.split(":")[0] == "cuda" else argument


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """All stages take the pretended GPU for their device."""
    with pytest.MonkeyPatch.context() as patch, PretendedGPU():
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
        # An optimiser asks the driver whether its step is being captured into a graph.
        health_check = "_accelerator_graph_capture_health_check"
        patch.setattr(torch.optim.Optimizer, health_check, lambda _: None, raising=False)
        # accelerate chooses its device once.
        AcceleratorState._reset_state(reset_partial_state=True)
        try:
            yield
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)
