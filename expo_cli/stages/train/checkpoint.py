"""Writes the finished checkpoint: a folder that diffusers loads."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig
from torch import Tensor

from expo_cli.contracts.files import atomic, atomic_folder, write_json
from expo_cli.contracts.kinds import ADAPTER_FILES, METRICS, MODEL_CARD
from expo_cli.contracts.sources import MODEL_INDEX
from expo_cli.contracts.tensors import write_tensors
from expo_cli.models.component import WEIGHTS
from expo_cli.models.families import read_index
from expo_cli.models.lora import save_adapter
from expo_cli.models.protocol import DiffusionModel
from expo_cli.report.model_card import model_card
from expo_cli.stages.train.origin import Origin, lora_metadata


def write_pipeline(model: DiffusionModel, weights: dict[str, Tensor], out: Path) -> list[Path]:
    """Write the trained network (fp32) and the pipeline's other parts, the index last; returns all
    files.

    The index does not name missing parts, such as the safety checker of a hub snapshot, which
    diffusers would fail to load.
    """
    index, written = read_index(model.folder), [out / MODEL_INDEX]
    for name, value in index.items():
        part = model.folder / name
        if not isinstance(value, list):
            continue
        if not part.is_dir():
            index[name] = [None, None]
            continue
        with atomic_folder(out / name) as folder:
            if name == model.network_name:
                model.network.save_config(folder)
                # Including buffers such as position embeddings.
                whole = {**model.network.state_dict(), **weights}
                write_tensors(folder / WEIGHTS, whole, {"format": "pt"})
            else:
                shutil.copytree(part, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
        written += [path for path in (out / name).rglob("*") if path.is_file()]
    write_json(out / MODEL_INDEX, index)
    return written


def write_checkpoint(
    model: DiffusionModel,
    weights: dict[str, Tensor],
    out: Path,
    adapter: LoraConfig | None,
    base: str,
    origin: Origin,
    measured: Mapping[str, Any],
) -> list[str]:
    """Write the model card, then the whole pipeline or only the adapter if there is one; returns the
    names of all files of the checkpoint.

    `measured` is the last line of metrics.
    """
    with atomic(out / MODEL_CARD) as file:
        file.write(model_card(origin, adapter is not None, measured).encode())
    if adapter is None:
        written = write_pipeline(model, weights, out)
    else:
        metadata = lora_metadata(origin, origin.settings["max_train_steps"])
        save_adapter(model, weights, out, adapter, base, metadata)
        written = [out / name for name in ADAPTER_FILES]
    names = sorted(path.relative_to(out).as_posix() for path in written)
    return [METRICS, MODEL_CARD, *names]
