"""The network of LAION's aesthetic score: five linear layers without activations."""

from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor
from torch.nn import functional as F

from expo_cli.contracts.tensors import read_tensors
from expo_cli.errors import ContractError, one_line

# Index of each layer in the published nn.Sequential (between dropouts) and its output width.
LAYERS = {0: 1024, 2: 128, 4: 64, 6: 16, 7: 1}


class AestheticPredictor:
    """Raises ContractError when the file holds anything but these layers, for embeddings of that
    width."""

    def __init__(self, path: Path, width: int, device: torch.device) -> None:
        tensors = read_tensors(path) if path.suffix == ".safetensors" else read_torch(path)
        shapes, last = {}, width
        for place, size in LAYERS.items():
            shapes |= {f"layers.{place}.weight": (size, last), f"layers.{place}.bias": (size,)}
            last = size
        if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != shapes:
            raise ContractError(
                f"{path}: not the predictor's layers for embeddings of {width} numbers: "
                f"{', '.join(map(str, shapes))}"
            )
        self.tensors = {name: tensor.float().to(device) for name, tensor in tensors.items()}

    @torch.inference_mode()
    def __call__(self, embeddings: Tensor) -> Tensor:
        """[batch, dim] -> [batch]"""
        hidden = embeddings.float()
        for place in LAYERS:
            weight, bias = (self.tensors[f"layers.{place}.{name}"] for name in ("weight", "bias"))
            hidden = F.linear(hidden, weight, bias)
        return hidden[:, 0]


def read_torch(path: Path) -> dict[str, Tensor]:
    """The tensors in a file by torch.save; anything else is not unpickled."""
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ContractError(f"{path}: holds more than tensors; it is not read") from error
    except Exception as error:  # torch has no specific error for a broken file
        reason = one_line(str(error))[:300]
        raise ContractError(f"{path}: cannot be read: {reason}") from error
    whole = isinstance(tensors, dict) and all(isinstance(t, Tensor) for t in tensors.values())
    if not whole:
        raise ContractError(f"{path}: holds no tensors by name")
    return tensors
