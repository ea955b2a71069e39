"""Train the text encoder of the pipeline, contrastively with an image tower.

Half the images are degraded and their captions say how, so that quality words mean something.
"""

import argparse
import logging
import random
from pathlib import Path

import torch
from degrade import degraded_copies
from rewards import contrastive_loss
from torch import Tensor
from torch.nn import functional as F
from training import Run
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig
from world import Drawing, load_drawings, varied_caption

BATCH_SIZE, COPIES = 128, 8
TEXT_WIDTH, PROJECTION = 256, 256
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
DEVIATION = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


def build(tokenizer: CLIPTokenizer) -> CLIPModel:
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        projection_dim=PROJECTION,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=3,
        image_size=64,
        patch_size=8,
        projection_dim=PROJECTION,
    )
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=PROJECTION
    )
    # SDPA's backward pass is slow on CPU.
    config._attn_implementation = "eager"
    return CLIPModel(config)


def named_flaws(caption: str, flaws: list[str], rng: random.Random) -> str:
    return ", ".join([caption, *rng.sample(flaws, len(flaws))])


class Captioned:
    """Clean and degraded images with captions, drawn half and half."""

    def __init__(self, work: Path, copies: int = COPIES, seed: int = 2) -> None:
        self.clean, self.drawings = load_drawings(work)
        self.degraded, self.flaws = degraded_copies(self.clean, copies, seed)
        self.copies = copies
        self.rng = random.Random(seed)

    def draw(self, size: int) -> tuple[Tensor, list[str]]:
        clean = self.rng.sample(range(len(self.clean)), size // 2)
        degraded = self.rng.sample(range(len(self.degraded)), size - size // 2)
        captions = [self.caption(self.drawings[index]) for index in clean]
        for index in degraded:
            caption = self.caption(self.drawings[index // self.copies])
            captions.append(named_flaws(caption, self.flaws[index], self.rng))
        return torch.cat([self.clean[clean], self.degraded[degraded]]), captions

    def caption(self, drawing: Drawing) -> str:
        return varied_caption(drawing, self.rng)


def pixel_values(images: Tensor) -> Tensor:
    """uint8 images to the normalised pixels of CLIP."""
    return (images.float() / 255 - MEAN) / DEVIATION


def features(clip: CLIPModel, images: Tensor) -> Tensor:
    pooled = clip.get_image_features(pixel_values(images).to(clip.dtype)).pooler_output
    return F.normalize(pooled.float(), dim=-1)


def text_features(clip: CLIPModel, tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
    pooled = clip.get_text_features(**tokens).pooler_output
    return F.normalize(pooled.float(), dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(arguments.work / "tokenizer")
    pool = Captioned(arguments.work)

    run = Run(
        build(tokenizer),
        arguments.work / "clip.pt",
        minutes=arguments.minutes,
        learning_rate=1e-3,
        weight_decay=0.05,
    )
    while not run.finished:
        images, captions = pool.draw(BATCH_SIZE)
        words = text_features(run.module, tokenizer, captions)
        similarity = words @ features(run.module, images).T
        run.step(contrastive_loss(run.module.logit_scale.float().exp().clamp(max=100) * similarity))
    run.average.save_pretrained(arguments.work / "clip")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    main()
