"""Train the held-out reward: another architecture, another tokenizer, other flaws, other seeds.

Images are prepared as HPSv2 prepares them: long side to the image size, zero padding, OpenAI's mean
and deviation. All pictures here are square and of that size, so only the normalisation is left to do.
"""

import argparse
import json
import logging
import random
from pathlib import Path

import numpy as np
import open_clip
import torch
from clip import pixel_values
from data import load_drawings
from diffusers import AutoencoderKL
from PIL import Image
from rewards import CaptionBatches, OwnSamples, reward_loss
from safetensors.torch import save_file
from spoil import jitter, spoil
from torch import Tensor, nn
from torch.nn import functional as F
from training import Run, as_tensor
from vae import decode, encode

BATCH_SIZE = 64
OWN_SAMPLES_SHARE = 0.3
MODEL = {
    "embed_dim": 192,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 2, 1], "width": 24, "patch_size": None},
    "text_cfg": {
        "context_length": 32,
        "vocab_size": 49408,
        "width": 96,
        "heads": 3,
        "layers": 3,
    },
}
PREPROCESS = {
    "mean": list(open_clip.OPENAI_DATASET_MEAN),
    "std": list(open_clip.OPENAI_DATASET_STD),
    "interpolation": "bicubic",
    "resize_mode": "longest",
}


def to_picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


class Triples:
    """Captions, good images and bad ones, all moved and turned a little."""

    def __init__(self, work: Path, seed: int, own_samples: bool) -> None:
        self.rng = random.Random(f"b{seed}")
        images, drawings = load_drawings(work)
        self.batches = CaptionBatches(drawings, self.rng)
        self.clean = as_tensor(images)
        vae = AutoencoderKL.from_pretrained(work / "vae")
        self.decoded = decode(vae, encode(vae, self.clean))
        self.own_samples = OwnSamples(work / "own_samples_b.pt") if own_samples else None

    def draw(self, size: int) -> tuple[list[str], Tensor, Tensor]:
        chosen, captions = self.batches.draw(size)
        good, bad = [], []
        num_own = round(OWN_SAMPLES_SHARE * size) if self.own_samples else 0
        own = set(self.rng.sample(range(size), num_own))
        for row, index in enumerate(chosen):
            if row in own:
                captions[row], better, worse = self.own_samples.draw(self.decoded, self.rng)
                pictures = to_picture(better), to_picture(worse)
            else:
                picture = to_picture(self.rng.choice([self.clean, self.decoded])[index])
                pictures = picture, spoil(picture, self.rng)
            good.append(np.asarray(jitter(pictures[0], self.rng)))
            bad.append(np.asarray(jitter(pictures[1], self.rng)))
        return captions, as_tensor(np.stack(good)), as_tensor(np.stack(bad))


def features(model: nn.Module, images: Tensor) -> Tensor:
    encoded = model.encode_image(pixel_values(images).to(model.logit_scale.dtype))
    return F.normalize(encoded.float(), dim=-1)


def text_features(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.normalize(model.encode_text(tokens).float(), dim=-1)


def build() -> nn.Module:
    return open_clip.CLIP(**MODEL)


def save(model: nn.Module, folder: Path) -> None:
    """The layout that open_clip reads as local-dir:FOLDER."""
    folder.mkdir(exist_ok=True)
    config = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument(
        "--own-samples", action="store_true", help="learn from own_samples.py's too"
    )
    arguments = parser.parse_args()
    torch.manual_seed(20)
    tokenizer = open_clip.SimpleTokenizer(context_length=MODEL["text_cfg"]["context_length"])
    run = Run(
        build(),
        arguments.work / "reward_b.pt",
        minutes=arguments.minutes,
        learning_rate=1e-3,
        weight_decay=0.05,
    )
    triples = Triples(arguments.work, run.num_steps, arguments.own_samples)
    run.start()
    while not run.finished:
        captions, good, bad = triples.draw(BATCH_SIZE)
        words = text_features(run.module, tokenizer(captions))
        better, worse = features(run.module, torch.cat([good, bad])).chunk(2)
        scale = run.module.logit_scale.float().exp().clamp(max=100)
        run.step(reward_loss(scale, words, better, worse))
    save(run.average, arguments.work / "reward_b")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    main()
