"""A cache of prompt embeddings on disk, so that large text encoders need not share memory with the
network.

T5 of SD 3 and FLUX takes 9.5 GB in bf16, so each prompt is encoded once, before the network is
loaded. CLIP is faster than reading a file and has no cache.

The folder holds one `ab/abcd....safetensors` per prompt, named by the prompt's sha256. Everything
else that determines the embeddings is in the plan of `run.json`. Any number of workers can add
entries at the same time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from hashlib import sha256
from pathlib import Path

import torch
from accelerate.utils.memory import clear_device_cache

from expo_cli.contracts.identity import TEXT, parts_sha256, pipeline_sha256s
from expo_cli.contracts.kinds import Cache
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.shards import Shard
from expo_cli.contracts.tensors import read_tensors, write_tensors
from expo_cli.errors import ContractError
from expo_cli.models.families import pipeline_folder
from expo_cli.models.loading import load_text_encoder
from expo_cli.models.protocol import Conditioning
from expo_cli.stages.common.progress import Notes
from expo_cli.stages.common.stopping import stop_on_signal

WHOLE = Shard()


class TextCache:
    """The cached text encoder of a model source; see `models.protocol.TextEncoder`."""

    def __init__(self, folder: Path, source: str, device: torch.device, dtype: torch.dtype) -> None:
        """Raises ContractError when the folder belongs to other encoders or another precision."""
        self.folder, self.source, self.device, self.dtype = folder, source, device, dtype
        self.cut: set[str] = set()
        encoders = parts_sha256(pipeline_sha256s(pipeline_folder(source), TEXT).items())
        plan = {
            "the sha256 of text encoders and tokenizers": encoders,
            "precision": str(dtype).removeprefix("torch."),
            "device": device.type,
        }
        cache = Cache(folder, "text-cache", "--text-cache")
        cache.use(Run(command="text-cache", plan=plan))

    def path(self, prompt: str) -> Path:
        name = sha256(prompt.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def fill(self, prompts: Iterable[str], notes: Notes, shard: Shard) -> None:
        """Encode the shard's missing prompts, then free the encoders.

        Raises Interrupted, between two prompts, when a signal asks to stop.
        """
        distinct = dict.fromkeys(prompts)
        wanted = [prompt for n, prompt in enumerate(distinct) if shard.takes(n)]
        missing = [prompt for prompt in wanted if not self.path(prompt).exists()]
        if not missing:
            return
        notes.say(
            f"text encoders: {len(missing)} prompts for {self.source}, {self.dtype} on "
            f"{self.device}, into {self.folder}"
        )
        encoder = load_text_encoder(self.source, self.device, self.dtype)
        with stop_on_signal() as stop, notes.bar(len(missing), "prompts") as bar:
            for prompt in missing:
                write_tensors(self.path(prompt), to_tensors(encoder.encode([prompt])))
                bar.advance()
                stop.check()
        self.cut = encoder.cut
        del encoder
        clear_device_cache(garbage_collection=True)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The cached conditioning. Raises ExpoError for a prompt without an entry, ContractError
        for a damaged one."""
        return Conditioning.concatenate([self.read(prompt) for prompt in prompts])

    def read(self, prompt: str) -> Conditioning:
        path = self.path(prompt)
        tensors = {name: tensor.to(self.device) for name, tensor in read_tensors(path).items()}
        try:
            return Conditioning(**tensors)
        except TypeError as error:
            raise ContractError(
                f"{path}: is not the conditioning of a prompt; remove it"
            ) from error


def ask_ahead(
    folder: str | Path | None,
    source: str,
    device: torch.device,
    dtype: torch.dtype,
    prompts: Iterable[str],
    notes: Notes,
    shard: Shard = WHOLE,
) -> TextCache | None:
    """The cache in `folder`, filled with all prompts of the shard; None without a folder."""
    if folder is None:
        return None
    cache = TextCache(Path(folder), source, device, dtype)
    cache.fill(prompts, notes, shard)
    return cache


def to_tensors(conditioning: Conditioning) -> dict[str, torch.Tensor]:
    named = {field.name: getattr(conditioning, field.name) for field in fields(conditioning)}
    return {name: tensor for name, tensor in named.items() if tensor is not None}
