"""`expo score --reward hpsv2` against `hpsv2.score`, an image at a time.

    python -m tests.benchmarks.score [--width full --images 6 --rounds 2]

Both judge the same PNG files by the same checkpoint in fp32 on the CPU, and have been called once
before; the scores are compared. Random weights: ViT-H-14 itself (`--width full`, 4 GB a copy), or
one of its kind that is an eighth as wide and deep.

`hpsv2.score` loads the checkpoint at every call. Its installed package can neither be imported (its
vocabulary is missing) nor find a checkpoint without the hub; both are worked around here.
"""

import argparse
import gzip
import json
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import open_clip
import torch
from PIL import Image

from expo_cli.config import RunOptions, ScoreConfig
from expo_cli.contracts import jsonl
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.records import ImageEntry, Score
from expo_cli.contracts.rollouts import score_path
from expo_cli.contracts.tensors import write_tensors
from expo_cli.rewards import open_clip_network
from expo_cli.rewards.hpsv2 import HPSv2
from expo_cli.stages.common.ahead import map_ahead
from expo_cli.stages.common.progress import Notes
from expo_cli.stages.score.image_index import ImageIndex, read_index
from expo_cli.stages.score.run import score_parts
from expo_cli.stages.score.scores import NamedReward, Scores
from tests.benchmarks.alternating import alternate, report, timed
from tests.benchmarks.profiles import show_shares

NARROW = {
    "embed_dim": 128,
    "vision_cfg": {
        "image_size": 224,
        "layers": 4,
        "width": 160,
        "head_width": 80,
        "patch_size": 14,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 128,
        "heads": 2,
        "layers": 3,
    },
}
TOLERANCE = 1e-4


class LoadedHPSv2(HPSv2):
    """Stays loaded between the rounds."""

    def load(self, device: torch.device, dtype: torch.dtype) -> None:
        if not hasattr(self, "_network"):
            super().load(device, dtype)


def write_checkpoint(architecture: dict, path: Path) -> None:
    """Random weights in half precision, as HPSv2's own files hold them."""
    torch.manual_seed(0)
    state = {name: t.half() for name, t in open_clip.CLIP(**architecture).state_dict().items()}
    torch.save({"state_dict": state}, path)


def write_images(folder: Path, count: int, size: int) -> Path:
    """Images of noise with prompts of which four images each have the same; their index."""
    folder.mkdir()
    entries = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
        name = f"{number:04d}.png"
        Image.fromarray(pixels).save(folder / name)
        prompt = f"a photo of {number // 4 + 1} cats, oil on canvas, highly detailed"
        entries.append(ImageEntry(image=name, prompt=prompt))
    index = folder / "index.jsonl"
    jsonl.write(index, entries)
    return index


def hpsv2_package(architecture: dict, checkpoint: Path) -> types.ModuleType:
    """hpsv2's own `img_score`, its ViT-H-14 replaced by the architecture."""
    vocabulary = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    # It imports turtle by mistake, which needs Tk.
    with (
        mock.patch("gzip.open", return_value=gzip.open(vocabulary)),
        mock.patch.dict(sys.modules, {"turtle": types.SimpleNamespace(forward=None)}),
    ):
        from hpsv2 import img_score
        from hpsv2.src.open_clip import factory
    factory._MODEL_CONFIGS["ViT-H-14"] = architecture
    with mock.patch.object(factory, "download_pretrained", return_value=str(checkpoint)):
        img_score.initialize_model()
    return img_score


def score_ours(images: ImageIndex, reward: HPSv2, out: Path, batch_size: int) -> list[float]:
    """What `expo score` does once it has loaded the reward."""
    config = ScoreConfig(reward=("hpsv2",), batch_size=batch_size)
    parts = range(-(-images.num_samples // images.samples_per_part))
    named = [NamedReward("hpsv2", "hpsv2", reward)]
    scores = Scores(out, len(parts), Run(command="score", plan={}), [], named, config, False)
    score_parts(
        images,
        {"hpsv2": reward},
        dict.fromkeys(parts, ["hpsv2"]),
        scores,
        config,
        Notes(RunOptions(quiet=True)),
    )
    return [
        score.raw for part in parts for score in jsonl.read(score_path(out, part, "hpsv2"), Score)
    ]


def score_theirs(images: ImageIndex, package: types.ModuleType, checkpoint: Path) -> list[float]:
    return [
        float(package.score(str(images.folder / e.image), e.prompt, cp=str(checkpoint))[0])
        for e in images.entries
    ]


def score_without_reloading(images: ImageIndex, package: types.ModuleType) -> list[float]:
    """The same loop with the checkpoint loaded already: an image and its prompt at a time."""
    model, preprocess = package.model_dict["model"], package.model_dict["preprocess_val"]
    tokenize = package.get_tokenizer("ViT-H-14")
    scores = []
    for entry in images.entries:
        with torch.no_grad():
            pixels = preprocess(Image.open(images.folder / entry.image))[None]
            features = model(pixels, tokenize([entry.prompt]))
            scores.append((features["image_features"] @ features["text_features"].T).item())
    return scores


def check_equal(expected: Sequence[float], found: Sequence[float], name: str) -> None:
    distance = np.abs(np.subtract(expected, found)).max()
    assert distance < TOLERANCE, f"{name}: a score is {distance} off"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", choices=["narrow", "full"], default="narrow")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=ScoreConfig.batch_size)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), chosen)


def measure(work: Path, arguments: argparse.Namespace) -> None:
    full = arguments.width == "full"
    architecture = open_clip.get_model_config("ViT-H-14") if full else NARROW
    checkpoint, config = work / "HPS_v2.1_compressed.pt", work / "architecture.json"
    write_checkpoint(architecture, checkpoint)
    config.write_text(json.dumps(architecture))
    index = write_images(work / "images", arguments.images, arguments.size)
    images = read_index(index.parent, index, ScoreConfig.part_size)
    reward = LoadedHPSv2(checkpoint=str(checkpoint), config=str(config))
    package = hpsv2_package(architecture, checkpoint)

    def ours() -> list[float]:
        return score_ours(images, reward, work / "scores", arguments.batch_size)

    def theirs() -> list[float]:
        return score_theirs(images, package, checkpoint)

    def without_reloading() -> list[float]:
        return score_without_reloading(images, package)

    scores = ours()
    check_equal(theirs(), scores, "hpsv2.score")
    check_equal(without_reloading(), scores, "without reloading")
    ways: dict[str, Callable[[], list[float]]] = {
        "expo score": ours,
        "hpsv2.score": theirs,
        "hpsv2.score without reloading": without_reloading,
    }
    seconds = alternate({name: timed(way) for name, way in ways.items()}, arguments.rounds)
    title = f"{'ViT-H-14' if full else 'an eighth of ViT-H-14'}, fp32, {arguments.size}x{arguments.size}"
    report(title, arguments.images, "images", seconds)
    show_shares(
        ours,
        {
            "image tower": [open_clip.CLIP.encode_image],
            "text tower": [open_clip.CLIP.encode_text],
            "waiting for image files": [map_ahead],
            "resizing": [open_clip_network.fit_into_square],
            "tokenizer": [open_clip.SimpleTokenizer.__call__],
            "embeddings": [write_tensors],
            "scores": [jsonl.write],
        },
    )


if __name__ == "__main__":
    main()
