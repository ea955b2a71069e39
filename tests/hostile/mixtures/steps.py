"""The commands that are attacked, in the order of a whole iteration, and the inputs of each.

A command runs in the folder above `run`, which holds all that expo makes; `models` and the rest
are the user's own.
"""

import fnmatch
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tests.checkpoints.sd import stable_diffusion
from tests.preferences import picture, write_pick_a_pic
from tests.tiny_rewards import clip_model


@dataclass(frozen=True)
class Input:
    """`kind` says which changes it may suffer. `through` are the steps between it and the
    command: what they made of it is out of date when it changes."""

    path: str
    kind: str
    through: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One command line. `results` are the names, after the stem of `out`, of what it is run for, `settings`
    flags that give another result, `numbers` flags that take a number."""

    name: str
    line: str
    out: str
    inputs: tuple[Input, ...]
    results: tuple[str, ...] = (".jsonl",)
    settings: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    single: bool = False
    slow: bool = False

    @property
    def command(self) -> str:
        return self.line.split()[0]

    @property
    def arguments(self) -> tuple[str, ...]:
        return (*self.line.split(), *(() if self.own_out else ("--out", self.out)))

    @property
    def own_out(self) -> bool:
        """Whether the command chooses the place itself."""
        return self.out.endswith("/scores")

    @property
    def places(self) -> tuple[str, ...]:
        """Every path that its command line names."""
        return (*dict.fromkeys((*(each.path for each in self.inputs), self.out)),)

    @property
    def stem(self) -> str:
        return stem_of(self.out)

    def is_result(self, name: str) -> bool:
        """Whether a path is one of what the command is run for."""
        return any(fnmatch.fnmatchcase(name, self.stem + result) for result in self.results)

    def with_flags(self, flags: str) -> "Step":
        """With these in place of its own of the same names."""
        new, words = flags.split(), self.line.split()
        for flag in new[::2]:
            while flag in words:
                del words[words.index(flag) : words.index(flag) + 2]
        return replace(self, line=" ".join((*words, *new)))


def stem_of(out: str) -> str:
    """What the names of all that a command makes begin with."""
    return out.removesuffix(".jsonl")


SD = Input("models/sd", "model")
PROMPTS = Input("run/prompts.jsonl", "prompts")
DRAW = (
    "--num-images-per-prompt 2 --num-inference-steps 2 --guidance-scale 3 --part-size 2 "
    "--dtype fp32"
)
REWARDS = "--reward a=pickscore:model=models/clip --reward b=pickscore:model=models/other-clip"
OTHER_REWARD = "--reward a=pickscore:model=models/other-clip"
REWARD_MODELS = (Input("models/clip", "reward"), Input("models/other-clip", "reward"))
TRAIN = (
    "--objective dpo --max-train-steps 2 --train-batch-size 2 --checkpointing-steps 1 "
    "--logging-steps 1 --learning-rate 1e-3 --mixed-precision fp32"
)
PARTS = ("/part-*.jsonl", "/part-*.safetensors")
DRAWN = {
    "results": (*PARTS, "/images/*"),
    "settings": (
        "--seed 5",
        "--guidance-scale 1",
        "--num-inference-steps 3",
        "--limit 3",
        "--num-images-per-prompt 3",
        "--part-size 1",
        "--scheduler ddim",
        "--policy models/other",
        "--first-index 4",
    ),
    "numbers": (
        *("--seed", "--limit", "--num-images-per-prompt", "--num-inference-steps", "--part-size"),
        *(
            "--guidance-scale",
            "--height",
            "--width",
            "--first-index",
            "--batch-size",
            "--iteration",
        ),
    ),
}
SCORED = {
    "results": PARTS,
    "settings": (
        "--limit 3",
        "--vae models/other",
        f"{OTHER_REWARD} --reward b=pickscore:model=models/clip",
        f"{OTHER_REWARD} --reward b=pickscore:model=models/other-clip",
    ),
    "numbers": ("--limit", "--batch-size"),
}
PAIRED = {
    "settings": ("--pairing top-bottom:k=1", "--min-margin 0.05", "--reward b", "--limit 2"),
    "numbers": ("--limit", "--min-margin", "--seed"),
    "single": True,
}
TRAINED = {
    "results": ("/*.safetensors", "/unet/*.safetensors", "/scheduler/*.json"),
    "settings": (
        "--seed 5",
        "--learning-rate 1e-4",
        "--max-train-steps 3",
        "--train-batch-size 1",
        "--limit 2",
        "--objective ipo",
        "--ref models/other",
        "--init-from models/other",
    ),
    "numbers": (
        *("--seed", "--limit", "--max-train-steps", "--train-batch-size", "--learning-rate"),
        *("--checkpointing-steps", "--logging-steps"),
        *("--warmup-ratio", "--noise-draws", "--max-grad-norm"),
    ),
}
MAIN = Input("run/main", "rollout")


def scored(name: str, folder: str) -> Step:
    return Step(
        name,
        f"score {folder} {REWARDS}",
        f"{folder}/scores",
        (Input(folder, "rollout"), SD, *REWARD_MODELS),
        **SCORED,
    )


ALL = (
    Step(
        "prompts",
        "prep-prompts words.txt --heldout-fraction 0.2",
        "run/prompts.jsonl",
        (Input("words.txt", "words"),),
        settings=("--sample 3", "--seed 5 --sample 3", "--max-tokens 7", "--heldout-fraction 0.5"),
        numbers=("--sample", "--seed", "--limit", "--max-tokens", "--heldout-fraction"),
        single=True,
    ),
    Step(
        "main",
        f"rollout run/prompts.jsonl --policy models/sd --kl-to models/other --images png {DRAW}",
        "run/main",
        (PROMPTS, SD, Input("models/other", "model")),
        **DRAWN,
    ),
    Step(
        "explore",
        "rollout run/prompts.jsonl --policy models/sd --agent explore "
        f"--explorer sampling:guidance_scale=5 {DRAW}",
        "run/explore",
        (PROMPTS, SD),
        **DRAWN,
    ),
    Step(
        "steps",
        f"rollout run/prompts.jsonl --policy models/sd {DRAW} --num-step-candidates 2 "
        "--scheduler ddim --eta 1 --step-reward a=pickscore:model=models/clip",
        "run/steps",
        (PROMPTS, SD, REWARD_MODELS[0]),
        **DRAWN
        | {"settings": ("--seed 5", "--num-step-candidates 3", "--skip-steps 1", "--eta 0.5")},
    ),
    scored("main-scores", "run/main"),
    scored("explore-scores", "run/explore"),
    Step("scores", f"score run/main {REWARDS}", "run/sc", (MAIN, SD, *REWARD_MODELS), **SCORED),
    Step(
        "picture-scores",
        f"score pictures --index pictures/index.jsonl {REWARDS} --part-size 2",
        "run/picture-scores",
        (Input("pictures/index.jsonl", "index"), Input("pictures", "pictures"), *REWARD_MODELS),
        results=PARTS,
        settings=(*SCORED["settings"][::2], "--part-size 3"),
        numbers=("--limit", "--batch-size", "--part-size"),
    ),
    Step(
        "pairs",
        "make-pairs run/main run/explore --reward a",
        "run/pairs.jsonl",
        (
            Input("run/main", "rollout", ("main-scores",)),
            Input("run/explore", "rollout", ("explore-scores",)),
            Input("run/main/scores", "scores"),
        ),
        **PAIRED,
    ),
    Step(
        "pairs-apart",
        "make-pairs run/main --scores run/sc --reward a",
        "run/apart.jsonl",
        (Input("run/main", "rollout", ("scores",)), Input("run/sc", "scores")),
        **PAIRED,
    ),
    Step(
        "imported",
        "make-pairs train.parquet --layout pick-a-pic --vae models/sd --part-size 2",
        "run/offline/pairs.jsonl",
        (Input("train.parquet", "parquet"), SD),
        results=(".jsonl", ".latents/part-*.jsonl", ".latents/part-*.safetensors"),
        settings=(
            "--posterior mean",
            "--vae models/other",
            "--limit 2",
            "--resolution 32",
            "--part-size 1",
        ),
        numbers=("--limit", "--resolution", "--part-size", "--batch-size"),
    ),
    Step(
        "exported",
        "make-pairs run/pairs.jsonl --export imagefolder --vae models/sd --part-size 2",
        "run/export",
        (
            Input("run/pairs.jsonl", "pairs"),
            Input("run/main", "rollout", ("main-scores", "pairs")),
            Input("run/explore", "rollout", ("explore-scores", "pairs")),
            SD,
        ),
        results=("/metadata.jsonl", "/images/*"),
        settings=("--limit 2", "--vae models/other", "--part-size 1"),
        numbers=("--limit", "--part-size", "--batch-size"),
    ),
    Step(
        "trained",
        f"train run/pairs.jsonl run/offline/pairs.jsonl --init-from models/sd {TRAIN}",
        "run/checkpoint",
        (
            Input("run/pairs.jsonl", "pairs"),
            Input("run/main", "rollout", ("main-scores", "pairs")),
            Input("run/offline/pairs.latents", "latents"),
            SD,
        ),
        **TRAINED,
    ),
    Step(
        "adapter",
        f"train run/pairs.jsonl --init-from models/sd --ref models/other {TRAIN} --use-lora "
        "--lora-rank 2",
        "run/adapter",
        (
            Input("run/pairs.jsonl", "pairs"),
            Input("run/explore", "rollout", ("explore-scores", "pairs")),
            SD,
            Input("models/other", "model"),
        ),
        **TRAINED | {"settings": ("--lora-rank 4", "--lora-alpha 8", *TRAINED["settings"][:5])},
    ),
    Step(
        "adapter-2",
        f"train run/pairs.jsonl --init-from run/adapter {TRAIN} --use-lora --lora-rank 2",
        "run/adapter-2",
        (Input("run/pairs.jsonl", "pairs"), Input("run/adapter", "adapter"), SD),
        **TRAINED,
    ),
    Step(
        "next",
        f"rollout run/prompts.jsonl --policy run/adapter {DRAW}",
        "run/next",
        (PROMPTS, Input("run/adapter", "adapter"), SD),
        **DRAWN,
    ),
    scored("next-scores", "run/next"),
    Step(
        "evaluated",
        "evaluate base=run/main next=run/next --num-bootstrap 20",
        "run/evaluation",
        (
            Input("run/main", "rollout", ("main-scores",)),
            Input("run/next", "rollout", ("next-scores",)),
            Input("run/main/scores", "scores"),
        ),
        results=("/results.json", "/samples.jsonl"),
        settings=("--seed 5", "--baseline next", "--num-bootstrap 30", "--confidence 0.9"),
        numbers=("--seed", "--num-bootstrap", "--confidence", "--limit", "--num-grid-prompts"),
        slow=True,
    ),
)
STEPS: Mapping[str, Step] = {step.name: step for step in ALL}

# Runs of the same commands whose outputs take the place of those above.
OTHERS = {
    "prompts": "--seed 5 --sample 4 --heldout-fraction 0.5",
    "main": "--seed 99",
    "explore": "--seed 99",
    "next": "--seed 99",
    "pairs": "--reward b",
    "imported": "--vae models/other",
    "adapter": "--seed 99",
}


def build_inputs(folder: Path) -> None:
    """All that no command of expo makes."""
    stable_diffusion(folder / "models/sd")
    stable_diffusion(folder / "models/other", seed=1)
    clip_model(folder / "models/clip", folder / "models/sd/tokenizer")
    clip_model(folder / "models/other-clip", folder / "models/sd/tokenizer", seed=1)
    animals = ("cat", "dog", "owl", "fox", "cat", "big blue whale")
    (folder / "words.txt").write_text("".join(f"a photo of a {name}\n" for name in animals))
    (folder / "more.txt").write_text("a drawing of a bee\na drawing of an elk\n")
    write_pick_a_pic(folder / "train.parquet")
    (folder / "pictures").mkdir()
    lines = []
    for number in range(5):
        picture(number).save(folder / f"pictures/{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "prompt": f"prompt {number}"}) + "\n")
    (folder / "pictures/index.jsonl").write_text("".join(lines))
    (folder / "notes.md").write_text("# My notes\n")
    (folder / "photos").mkdir()
    picture(9).save(folder / "photos/holiday.png")
    (folder / "photos/notes.txt").write_text("what the photos show\n")
    (folder / "run").mkdir()
