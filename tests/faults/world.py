"""A whole iteration of the method at toy size: a folder of inputs, and the commands in their order.

Each command finds what those before it made.
"""

from dataclasses import dataclass
from pathlib import Path

from tests.checkpoints.sd import stable_diffusion
from tests.preferences import write_pick_a_pic
from tests.tiny_rewards import clip_model, open_clip_model


@dataclass(frozen=True)
class Command:
    """`arguments` are those of `expo`; `name` tells it from others of the same command."""

    name: str
    arguments: tuple[str, ...]


def command(name: str, line: str) -> Command:
    return Command(name, tuple(line.split()))


ROLLOUT = "--num-images-per-prompt 2 --num-inference-steps 2 --part-size 2 --dtype fp32"
IMAGES = "--vae models/sd --part-size 2"
TRAIN = (
    "train pairs.jsonl offline/pairs.jsonl --init-from models/sd --objective dpo --max-train-steps 4 "
    "--train-batch-size 2 --checkpointing-steps 1 --logging-steps 1 --mixed-precision fp32"
)

COMMANDS = (
    command("prep-prompts", "prep-prompts words.txt --heldout-fraction 0.2 --out prompts.jsonl"),
    command(
        "rollout",
        "rollout prompts.jsonl --policy models/sd --kl-to models/other --images png "
        f"--out main {ROLLOUT}",
    ),
    command(
        "rollout-steps",
        f"rollout prompts.jsonl --policy models/sd --out steps {ROLLOUT} --num-step-candidates 2 "
        "--scheduler ddim --eta 1 --step-reward step-clip=pickscore:model=models/clip",
    ),
    command(
        "score",
        "score main --reward a=pickscore:model=models/clip --reward b=hpsv2:model=models/open-clip",
    ),
    command("make-pairs", "make-pairs main --reward a --out pairs.jsonl"),
    command(
        "make-pairs-import",
        f"make-pairs train.parquet --layout pick-a-pic --flip --out offline/pairs.jsonl {IMAGES}",
    ),
    command("make-pairs-export", f"make-pairs pairs.jsonl --export imagefolder --out out {IMAGES}"),
    command("train", f"{TRAIN} --out checkpoint"),
    command("train-lora", f"{TRAIN} --use-lora --lora-rank 2 --out adapter"),
    command("evaluate", "evaluate base=main again=main --out evaluation --num-bootstrap 50"),
)


def build_world(folder: Path) -> Path:
    """Models of random weights, words and images of the world in `folder`."""
    stable_diffusion(folder / "models/sd")
    stable_diffusion(folder / "models/other", seed=1)
    clip_model(folder / "models/clip", folder / "models/sd/tokenizer")
    open_clip_model(folder / "models/open-clip")
    animals = ("cat", "dog", "owl", "fox", "hen", "cow", "cat")
    (folder / "words.txt").write_text("".join(f"a photo of a {name}\n" for name in animals))
    write_pick_a_pic(folder / "train.parquet")
    return folder
