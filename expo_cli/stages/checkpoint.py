"""The finished checkpoint: a folder that diffusers loads."""

import os
import shutil
from pathlib import Path

from peft import LoraConfig
from torch import Tensor

from expo_cli.contracts.files import atomic, atomic_folder
from expo_cli.contracts.tensors import write_tensors
from expo_cli.models.lora import save_adapter
from expo_cli.models.protocol import DiffusionModel

WEIGHTS = "diffusion_pytorch_model.safetensors"


def link_or_copy(source: str, target: str) -> None:
    """A hard link where the file system allows it: the frozen parts need no second copy."""
    real = os.path.realpath(source)  # a hub snapshot's files are links into its cache
    try:
        os.link(real, target)
    except OSError:
        shutil.copyfile(real, target)


def write_pipeline(model: DiffusionModel, weights: dict[str, Tensor], out: Path) -> None:
    """Write the trained network (fp32) and the pipeline's other parts; the index comes last."""
    network_name = model.network_name
    for part in sorted(path for path in model.folder.iterdir() if path.is_dir()):
        with atomic_folder(out / part.name) as folder:
            if part.name == network_name:
                model.network.save_config(folder)
                write_tensors(folder / WEIGHTS, weights, {"format": "pt"})
            else:
                shutil.copytree(part, folder, copy_function=link_or_copy, dirs_exist_ok=True)
    with atomic(out / "model_index.json") as file:
        file.write((model.folder / "model_index.json").read_bytes())


def write_checkpoint(
    model: DiffusionModel,
    weights: dict[str, Tensor],
    out: Path,
    adapter: LoraConfig | None,
    base: str,
) -> None:
    """Write a whole pipeline, or the adapter alone when there is one."""
    if adapter is None:
        write_pipeline(model, weights, out)
    else:
        save_adapter(model.network, weights, out, adapter, base)
