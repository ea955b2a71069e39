"""Pairs, images and scores per second, ours and the peers' in turn in one process."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from expo_cli.config import ScoreConfig
from expo_cli.contracts import jsonl
from expo_cli.contracts.records import Prompt
from expo_cli.models.loading import load_model
from expo_cli.rewards.pickscore import PickScore
from expo_cli.stages.common.device import DTYPES
from expo_cli.stages.score.image_index import ImageIndex, read_index
from tests.benchmarks.alternating import alternate, timed
from tests.benchmarks.rollout import draw_ours, draw_theirs, pipeline_of, planned_drawing
from tests.benchmarks.score import check_equal, score_ours, write_images
from tests.benchmarks.train import OURS, Ours, Theirs, take_steps
from tests.gpu.checks import Rates
from tests.gpu.setting import Setting


def in_turn(setting: Setting, items: int, **ways: Callable[[], object]) -> Rates:
    def finished(way: Callable[[], object]) -> None:
        way()
        if setting.device.type == "cuda":
            torch.cuda.synchronize()

    measures = {name.replace("_", " "): timed(partial(finished, way)) for name, way in ways.items()}
    return Rates(items, alternate(measures, setting.sizes.rounds))


def pairs(setting: Setting, use_lora: bool) -> Rates:
    work = setting.work("bf16", use_lora)
    ours, theirs = Ours(work, OURS), Theirs(work)
    steps = work.options.steps
    return in_turn(
        setting,
        steps * work.options.batch,
        expo_train=partial(take_steps, ours, steps),
        diffusers_loop=partial(take_steps, theirs, steps),
    )


def images(setting: Setting) -> Rates:
    sizes = setting.sizes
    arguments = argparse.Namespace(
        images_per_prompt=sizes.images_per_prompt,
        steps=sizes.sampling_steps,
        dtype="bf16",
        batch_size=2 * sizes.images_per_prompt,
    )
    prompts = list(jsonl.read(setting.prompts, Prompt))
    plan = planned_drawing(str(setting.model), prompts, arguments)
    model = load_model(str(setting.model), setting.device, DTYPES["bf16"])
    model.image_size = lambda: sizes.pixels
    model.encode(["loads the text encoder"])
    pipeline = pipeline_of(model)
    return in_turn(
        setting,
        len(prompts) * sizes.images_per_prompt,
        expo_rollout=lambda: draw_ours(plan, model, setting.new("ours")),
        diffusers_pipeline=lambda: draw_theirs(
            plan, pipeline, model, sizes.pixels, setting.new("theirs")
        ),
    )


@dataclass
class LoadedPickScore(PickScore):
    """Stays loaded between the rounds."""

    def load(self, device: torch.device, dtype: torch.dtype) -> None:
        if not hasattr(self, "_clip"):
            super().load(device, dtype)


@dataclass(frozen=True)
class CLIPLoop:
    """PickScore's own example: an image and its prompt at a time, by transformers alone."""

    setting: Setting
    images: ImageIndex

    @cached_property
    def parts(self) -> tuple[CLIPModel, CLIPProcessor]:
        folder = str(self.setting.reward)
        network = CLIPModel.from_pretrained(folder).eval().to(self.setting.device)
        return network, CLIPProcessor.from_pretrained(folder)

    @torch.no_grad()
    def __call__(self) -> list[float]:
        network, processor = self.parts
        scores = []
        for entry in self.images.entries:
            with Image.open(self.images.folder / entry.image) as image:
                inputs = processor(
                    text=[entry.prompt], images=image, return_tensors="pt", truncation=True
                )
            outputs = network(**inputs.to(self.setting.device))
            scores.append((outputs.image_embeds @ outputs.text_embeds.T).item())
        return scores


def scores(setting: Setting) -> Rates:
    index = write_images(setting.new("images"), setting.sizes.images, setting.sizes.pixels)
    source = read_index(index.parent, index, ScoreConfig.part_size)
    reward = LoadedPickScore(model=str(setting.reward))
    loop = CLIPLoop(setting, source)
    ours = partial(score_ours, source, reward, setting.new("scores"), ScoreConfig.batch_size)
    check_equal(loop(), ours(), "transformers")
    return in_turn(setting, setting.sizes.images, expo_score=ours, transformers_loop=loop)
