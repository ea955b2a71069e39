"""How long each command takes to begin: the smallest job there is, from the shell to its end.

    python -m tests.benchmarks.start_up

One image of one step, one score, one pair, one optimiser step: the work itself is a fraction of a
second, the rest is start-up. Each command is compared with a script that does the same with the
peer's library. Then follow, for each command, the packages in which its imports spend their time.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from tests.benchmarks.alternating import alternate, timed

EXPO = [sys.executable, "-m", "expo_cli"]
NUM_PACKAGES = 6
IMPORT_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \| \s*(\S+)")

PIPELINE = """
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained({model!r})
pipeline("a cat", num_inference_steps=1).images[0].save({out!r})
"""
CLIP_SCORE = """
from PIL import Image
from transformers import AutoModel, AutoProcessor
processor = AutoProcessor.from_pretrained({model!r})
model = AutoModel.from_pretrained({model!r}).eval()
inputs = processor(text=["a cat"], images=Image.open({image!r}), return_tensors="pt")
print(model(**inputs).logits_per_image.item())
"""
PANDAS = """
import pandas
frame = pandas.read_json({source!r}, lines=True)
frame.to_json({out!r}, orient="records", lines=True)
"""
# What diffusers' Diffusion-DPO script for SD 1.5 imports before it reads its arguments.
DPO_IMPORTS = """
import accelerate, datasets, diffusers, peft, torch, transformers
from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
from transformers import AutoTokenizer, PretrainedConfig
"""


def jobs(work: Path) -> dict[str, Sequence[object]]:
    """The smallest job of each command, in an order in which each finds what it reads."""
    prompts, pairs = work / "prompts.jsonl", work / "pairs.jsonl"
    rollout = work / "rollout"
    sd, judge = "embedded:emoji-sd", "pickscore:model=embedded:emoji-pickscore"
    drawing = ("--policy", sd, "--num-images-per-prompt", 2, "--num-inference-steps", 1)
    training = ("--init-from", sd, "--train-batch-size", 1, "--max-train-steps", 1)
    return {
        "--help": ["--help"],
        "prep-prompts": ["prep-prompts", work / "prompts.txt", "--out", prompts],
        "rollout": ["rollout", prompts, "--out", rollout, *drawing, "--images", "png"],
        "score": ["score", rollout, "--reward", judge],
        "make-pairs": ["make-pairs", rollout, "--out", pairs],
        "train": ["train", pairs, "--out", work / "checkpoint", *training],
        "evaluate": ["evaluate", f"base={rollout}", "--out", work / "evaluation"],
    }


def peers(work: Path) -> dict[str, str]:
    """A script for the command that it is measured against."""
    from expo_cli.contracts.sources import shipped

    image = str(next((work / "rollout" / "images").iterdir()))
    sd, clip = (str(shipped(f"embedded:{name}")) for name in ("emoji-sd", "emoji-pickscore"))
    table = PANDAS.format(source=str(work / "prompts.jsonl"), out=str(work / "out.jsonl"))
    return {
        "prep-prompts": table,
        "rollout": PIPELINE.format(model=sd, out=str(work / "peer.png")),
        "score": CLIP_SCORE.format(model=clip, image=image),
        "make-pairs": table,
        "train": DPO_IMPORTS,
    }


def run(command: Sequence[object]) -> str:
    """Run a command and return what it wrote to stderr."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def import_seconds(command: Sequence[object]) -> Counter[str]:
    """By top-level package, the time of its modules themselves in a run of the command."""
    seconds: Counter[str] = Counter()
    log = run([command[0], "-X", "importtime", *command[1:]])
    for microseconds, module in IMPORT_LINE.findall(log):
        seconds[module.partition(".")[0]] += int(microseconds) / 1e6
    return seconds


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--commands", nargs="+", help="These alone; by default all.")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), chosen)


def measure(work: Path, arguments: argparse.Namespace) -> None:
    (work / "prompts.txt").write_text("noto style: a red heart\n")
    commands = {name: [*EXPO, *job] for name, job in jobs(work).items()}
    wanted = arguments.commands or list(commands)
    last = max(map(list(commands).index, wanted))
    for command in list(commands.values())[: last + 1]:
        run(command)
    print(f"start-up, {arguments.rounds} rounds: seconds, and of the imports those of packages")
    scripts = peers(work) if (work / "rollout").exists() else {}
    for name in wanted:
        command = commands[name] if name == "--help" else [*commands[name], "--overwrite"]
        ways: dict[str, Callable[[], float]] = {"expo": timed(lambda c=command: run(c))}
        if name in scripts:
            script = [sys.executable, "-c", scripts[name]]
            ways["peer"] = timed(lambda c=script: run(c))
        seconds = alternate(ways, arguments.rounds)
        figures = ", ".join(f"{way} {median(took):.2f}" for way, took in seconds.items())
        imports = import_seconds(command)
        packages = ", ".join(f"{p} {s:.2f}" for p, s in imports.most_common(NUM_PACKAGES))
        print(f"  {name:<14} {figures}; imports {imports.total():.2f}: {packages}")


if __name__ == "__main__":
    main()
