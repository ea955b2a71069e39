"""Pairs to train on, made without a rollout."""

from pathlib import Path

import torch

from expo_cli.contracts import jsonl
from expo_cli.contracts.records import Pair, SampleRef
from expo_cli.contracts.tensors import write_tensors


def write_latent_pairs(folder: Path, channels: int = 4) -> Path:
    """Six pairs of random latents, in a part beside their file; the last has no explore samples."""
    generator = torch.Generator().manual_seed(0)
    roles = ("winner", "loser", "explore", "main")
    latents = {
        f"s{n}-{role}": torch.randn(channels, 8, 8, generator=generator).half()
        for n in range(6)
        for role in roles
    }
    write_tensors(folder / "rollout" / "part-00000.safetensors", latents)

    def ref(n: int, role: str) -> SampleRef:
        return SampleRef(
            sample_id=f"s{n}-{role}",
            part="rollout/part-00000.safetensors",
            score=1.0 if role == "explore" else 0.0,
        )

    path = folder / "pairs.jsonl"
    jsonl.write(
        path,
        [
            Pair(
                pair_id=f"pair{n}",
                prompt_id=f"p{n}",
                prompt=f"prompt {n}",
                winner=ref(n, "winner"),
                loser=ref(n, "loser"),
                winner_score=1.0,
                loser_score=0.0,
                margin=1.0,
                reward="r",
                source="online",
                iteration=1,
                explore=ref(n, "explore") if n < 5 else None,
                main=ref(n, "main") if n < 5 else None,
            )
            for n in range(6)
        ],
    )
    return path
