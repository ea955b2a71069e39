"""The files of a CLIP of transformers, found without loading any."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expo_cli.contracts.identity import (
    config_sha256,
    file_sha256,
    parts_sha256,
    text_sha256,
    weight_files,
)
from expo_cli.contracts.sources import model_folder
from expo_cli.errors import ContractError

CONFIG = "config.json"
PREPROCESSING = ("preprocessor_config.json", "processor_config.json")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)


@dataclass(frozen=True)
class CLIPFiles:
    """The folders of a network and of its tokenizer and preprocessing."""

    network: Path
    processor: Path

    def identity(self) -> dict[str, Any]:
        names = (*PREPROCESSING, *TOKENIZER)
        found = [self.processor / name for name in names if (self.processor / name).exists()]
        config = self.network / CONFIG
        return {
            "weights": parts_sha256((p.name, file_sha256(p)) for p in weight_files(self.network)),
            "config": config_sha256(config) if config.exists() else None,
            "processor": parts_sha256((path.name, text_sha256(path)) for path in found),
            "preprocessing": "transformers CLIPImageProcessorPil: Pillow's antialiased resize",
        }


def clip_files(model: str, processor: str | None, fallback: str | None = None) -> CLIPFiles:
    """The files of `model`, with the given processor, else its own, else that of `fallback`.

    Raises ExpoError when there is no such model, ContractError when there is no processor.
    """
    network = model_folder(model)
    if processor is not None:
        return CLIPFiles(network, model_folder(processor, files=(*PREPROCESSING, *TOKENIZER)))
    if any((network / name).exists() for name in PREPROCESSING):
        return CLIPFiles(network, network)
    if fallback is None:
        raise ContractError(f"{network}: has no {PREPROCESSING[0]}; name one by processor=FOLDER")
    return CLIPFiles(network, model_folder(fallback, files=(*PREPROCESSING, *TOKENIZER)))
