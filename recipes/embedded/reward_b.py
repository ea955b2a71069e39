"""Train the held-out reward: another architecture, another tokenizer, other flaws, other seeds.

Images are prepared as HPSv2 prepares them: long side to the image size, zero padding, OpenAI's mean
and deviation. All pictures here are square and of that size, so only the normalisation is left to do.
"""

import json
import logging
import random
from pathlib import Path

import numpy as np
import open_clip
import torch
from clip import pixel_values
from PIL import Image
from rewards import Triples, parse_arguments, train
from safetensors.torch import save_file
from spoil import jitter, spoil
from torch import Tensor, nn
from torch.nn import functional as F
from training import Run

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


def to_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


class SpoiledTriples(Triples):
    """Bad images have flaws that no other model of the world has seen."""

    def __init__(self, work: Path, seed: int, own_samples: bool) -> None:
        pool = work / "own_samples_b.pt" if own_samples else None
        super().__init__(work, random.Random(f"b{seed}"), pool, OWN_SAMPLES_SHARE)

    def worse(self, index: int, image: Tensor) -> Tensor:
        return to_tensor(spoil(to_picture(image), self.rng))

    def varied(self, images: list[Tensor]) -> Tensor:
        """Move, turn and scale each a little."""
        return torch.stack([to_tensor(jitter(to_picture(image), self.rng)) for image in images])


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
    arguments = parse_arguments(__doc__, minutes=30)
    torch.manual_seed(20)
    tokenizer = open_clip.SimpleTokenizer(context_length=MODEL["text_cfg"]["context_length"])
    run = Run(
        build(),
        arguments.work / "reward_b.pt",
        minutes=arguments.minutes,
        learning_rate=1e-3,
        weight_decay=0.05,
    )
    triples = SpoiledTriples(arguments.work, run.num_steps, arguments.own_samples)
    train(run, triples, lambda model, words: text_features(model, tokenizer(words)), features)
    save(run.average, arguments.work / "reward_b")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    main()
