"""Whether a policy's first optimiser step is the one that plain diffusers and AdamW take."""

from pathlib import Path

from diffusers import StableDiffusionPipeline

from expo_cli.contracts.tensors import read_tensors

WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"


def assert_same_first_step(checkpoint: Path, base: Path, stepped: StableDiffusionPipeline) -> None:
    """AdamW's first step is lr * sign(gradient) nearly everywhere: compare the directions."""
    trained, before = read_tensors(checkpoint / WEIGHTS), read_tensors(base / WEIGHTS)
    moved = agree = 0
    for name, expected in stepped.unet.state_dict().items():
        ours, theirs = trained[name] - before[name], expected - before[name]
        clear = theirs.abs() > 9e-4
        moved += clear.sum().item()
        agree += (ours.sign() == theirs.sign())[clear].sum().item()
    assert moved > 100_000
    assert agree / moved > 0.999
