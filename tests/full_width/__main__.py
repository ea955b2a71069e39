"""A checkpoint as wide as the real one through every command: time, memory, and the same images.

    python -m tests.full_width sdxl FOLDER [--size 256]

Random weights of the family's real config.json are made in FOLDER, unless they are there. Then rollout,
score, make-pairs, train and rollout again by what was trained, in bf16; and all images of both
rollouts once more by diffusers' own pipeline. Prints what each command took, as a table.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tests.benchmarks.measure import measured_apart
from tests.checkpoints.flux import flux
from tests.checkpoints.sd import stable_diffusion
from tests.checkpoints.sd3 import stable_diffusion_3
from tests.checkpoints.sdxl import stable_diffusion_xl
from tests.pixels import mean_difference

EXPO = Path(sys.executable).parent / "expo"
PROJECT = Path(__file__).parents[2]
LORA = "--use-lora --lora-rank 16 --lora-alpha 16"


@dataclass(frozen=True)
class Family:
    make: Callable[[Path], object]
    scheduler: str = "flow-match-euler"
    scheduler_class: str | None = None
    """Of diffusers, where it is not the one in the checkpoint."""
    has_t5: bool = True


FAMILIES = {
    "sd15": Family(partial(stable_diffusion, full=True), "ddim", "DDIMScheduler", has_t5=False),
    "sdxl": Family(partial(stable_diffusion_xl, full=True), "euler", has_t5=False),
    "sd3": Family(partial(stable_diffusion_3, full=True)),
    # All of FLUX's layers would take 24 GB.
    "flux": Family(partial(flux, full=True, layers=(2, 4))),
}


@dataclass(frozen=True)
class Run:
    """One family's run in `folder`, where all paths begin."""

    family: Family
    folder: Path
    size: int
    all_weights: bool

    def expo(self, line: str) -> None:
        measured = measured_apart([EXPO, *line.split(), "--quiet"], cwd=self.folder)
        show(
            f"| {line.split(' --')[0]} | {measured.seconds:.0f} | {measured.peak_mib / 1024:.1f} |"
        )

    def roll_out(self, policy: str, out: str) -> None:
        self.expo(
            f"rollout prompts.jsonl --policy {policy} --out {out} --num-images-per-prompt 2 "
            f"--scheduler {self.family.scheduler} --num-inference-steps 4 --dtype bf16 "
            f"--height {self.size} --width {self.size} --images png {self.text_cache}"
        )

    def train(self) -> None:
        weights = "--learning-rate 1e-5" if self.all_weights else f"--learning-rate 1e-3 {LORA}"
        self.expo(
            f"train pairs.jsonl --init-from model --out trained {weights} --objective dpo:beta=5000 "
            "--max-train-steps 2 --train-batch-size 1 --gradient-accumulation-steps 2 "
            "--gradient-checkpointing --mixed-precision bf16 --max-error-ratio 100 "
            f"{self.text_cache}"
        )

    @property
    def text_cache(self) -> str:
        return "--text-cache text" if self.family.has_t5 else ""

    def by_diffusers(self, rollout: str, checkpoint: str, *adapter: str) -> Path:
        """The folder of a rollout's images by diffusers."""
        out = self.folder / f"{rollout}-by-diffusers"
        words = ["tests.full_width.by_diffusers", self.folder / rollout, checkpoint, out, *adapter]
        if self.family.scheduler_class:
            words += ["--scheduler", self.family.scheduler_class]
        subprocess.run([sys.executable, "-m", *words], cwd=PROJECT, check=True)
        return out

    def compare(self) -> None:
        """Print how far the images are from those of diffusers, which loads what was trained."""
        model, trained = map(str, (self.folder / "model", self.folder / "trained"))
        source = (trained,) if self.all_weights else (model, "--lora", trained)
        main, again = self.folder / "main", self.folder / "again"
        for what, one, other in (
            ("the model's images and diffusers'", main, self.by_diffusers("main", model)),
            ("the trained one's and diffusers'", again, self.by_diffusers("again", *source)),
            ("the model's and the trained one's", main, again),
        ):
            show(f"{what}: {mean_difference(one, other):.2f} of 255 apart")

    def __call__(self) -> None:
        (self.folder / "prompts.jsonl").write_text(
            '{"prompt_id": "cat", "prompt": "a red cat, photograph"}\n'
            '{"prompt_id": "dogs", "prompt": "two blue dogs in the rain"}\n'
        )
        if not (self.folder / "model" / "model_index.json").exists():
            # In a process of its own, whose memory the commands then have.
            make = get_context("spawn").Process(
                target=self.family.make, args=[self.folder / "model"]
            )
            make.start()
            make.join()
            assert make.exitcode == 0
        show("| command | seconds | peak GiB |\n|---|---|---|")
        self.roll_out("model", "main")
        self.expo("score main --reward pickscore:model=embedded:emoji-pickscore")
        self.expo("make-pairs main --reward pickscore --out pairs.jsonl")
        self.train()
        self.roll_out("trained", "again")
        self.compare()


def show(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=256, help="Pixels of height and width.")
    parser.add_argument("--all-weights", action="store_true", help="Instead of LoRA.")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    Run(FAMILIES[arguments.family], folder, arguments.size, arguments.all_weights)()


if __name__ == "__main__":
    main()
