"""A checkpoint as wide as the real one through every command: minutes, memory, and the same images.

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
from multiprocessing import get_context
from pathlib import Path

from tests.benchmarks.measure import measured_apart
from tests.pixels import mean_difference

EXPO = Path(sys.executable).parent / "expo"
PROJECT = Path(__file__).parents[2]
JUDGE = "pickscore:model=embedded:emoji-pickscore"


@dataclass(frozen=True)
class Family:
    make: Callable[[Path], object]
    scheduler: str = "flow-match-euler"
    scheduler_class: str | None = None
    """Of diffusers, where it is not the one in the checkpoint."""
    has_t5: bool = True


def make_sd15(folder: Path) -> None:
    from tests.checkpoints.sd import stable_diffusion

    stable_diffusion(folder, full=True)


def make_sdxl(folder: Path) -> None:
    from tests.checkpoints.sdxl import stable_diffusion_xl

    stable_diffusion_xl(folder, full=True)


def make_sd3(folder: Path) -> None:
    from tests.checkpoints.sd3 import stable_diffusion_3

    stable_diffusion_3(folder, full=True)


def make_flux(folder: Path) -> None:
    from tests.checkpoints.flux import flux

    flux(folder, full=True, layers=(2, 4))


FAMILIES = {
    "sd15": Family(make_sd15, "ddim", "DDIMScheduler", has_t5=False),
    "sdxl": Family(make_sdxl, "euler", has_t5=False),
    "sd3": Family(make_sd3),
    "flux": Family(make_flux),
}


@dataclass(frozen=True)
class Run:
    """One family's run in `folder`."""

    family: Family
    folder: Path
    size: int
    all_weights: bool

    @property
    def checkpoint(self) -> Path:
        return self.folder / "model"

    @property
    def text_cache(self) -> tuple[object, ...]:
        return ("--text-cache", self.folder / "text") if self.family.has_t5 else ()

    def expo(self, name: str, *arguments: object) -> None:
        measured = measured_apart([EXPO, *arguments, "--quiet"])
        show(f"| {name} | {measured.seconds:.0f} | {measured.peak_mib / 1024:.1f} |")

    def roll_out(self, policy: Path, out: Path) -> None:
        self.expo(
            f"rollout by {policy.name}",
            *("rollout", self.folder / "prompts.jsonl", "--policy", policy, "--out", out),
            *("--scheduler", self.family.scheduler, "--num-inference-steps", 4),
            *("--height", self.size, "--width", self.size, "--images", "png"),
            *("--num-images-per-prompt", 2, "--dtype", "bf16"),
            *self.text_cache,
        )

    def train(self, pairs: Path, out: Path) -> None:
        weights = () if self.all_weights else ("--use-lora", "--lora-rank", 16, "--lora-alpha", 16)
        self.expo(
            f"train, {'all weights' if self.all_weights else 'LoRA of rank 16'}, 2 steps of 2 pairs",
            *("train", pairs, "--init-from", self.checkpoint, "--out", out, *weights),
            *(
                "--objective",
                "dpo:beta=5000",
                "--learning-rate",
                1e-5 if self.all_weights else 1e-3,
            ),
            *("--max-train-steps", 2, "--train-batch-size", 1, "--gradient-accumulation-steps", 2),
            *("--gradient-checkpointing", "--mixed-precision", "bf16", "--max-error-ratio", 100),
            *self.text_cache,
        )

    def by_diffusers(self, rollout: Path, trained: Path | None = None) -> Path:
        """The folder of a rollout's images by diffusers, which loads what was trained, too."""
        whole = trained if trained and self.all_weights else self.checkpoint
        adapter = ("--lora", trained) if trained and not self.all_weights else ()
        other = self.family.scheduler_class
        scheduler = ("--scheduler", other) if other else ()
        out = self.folder / f"{rollout.name}-by-diffusers"
        command = [sys.executable, "-m", "tests.full_width.by_diffusers", rollout, whole, out]
        subprocess.run([*command, *adapter, *scheduler], cwd=PROJECT, check=True)
        return out

    def __call__(self) -> None:
        prompts = self.folder / "prompts.jsonl"
        prompts.write_text(
            '{"prompt_id": "cat", "prompt": "a red cat, photograph"}\n'
            '{"prompt_id": "dogs", "prompt": "two blue dogs in the rain"}\n'
        )
        if not (self.checkpoint / "model_index.json").exists():
            # In a process of its own, whose memory the commands then have.
            make = get_context("spawn").Process(target=self.family.make, args=[self.checkpoint])
            make.start()
            make.join()
        main, pairs = self.folder / "main", self.folder / "pairs.jsonl"
        trained, again = self.folder / "trained", self.folder / "again"
        show("| command | seconds | peak GiB |\n|---|---|---|")
        self.roll_out(self.checkpoint, main)
        self.expo("score", "score", main, "--reward", JUDGE)
        self.expo("make-pairs", "make-pairs", main, "--reward", "pickscore", "--out", pairs)
        self.train(pairs, trained)
        self.roll_out(trained, again)
        for what, one, other in (
            ("the model's images and diffusers'", main, self.by_diffusers(main)),
            ("the trained one's and diffusers'", again, self.by_diffusers(again, trained)),
            ("the model's and the trained one's", main, again),
        ):
            show(f"{what}: {mean_difference(one, other):.2f} of 255 apart")


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
