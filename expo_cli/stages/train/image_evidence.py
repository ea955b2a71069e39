"""Evidence for objectives that learn from labelled images."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from expo_cli.config import TrainConfig
from expo_cli.core.objectives import DiffusionKTO, Errors, ImageErrors
from expo_cli.core.visits import Visit, VisitOrder, balanced
from expo_cli.errors import UsageError
from expo_cli.models.protocol import DiffusionModel
from expo_cli.stages.train.evidence import (
    Denoiser,
    EvidenceStream,
    Latents,
    Row,
    RowMaker,
    saturation,
)
from expo_cli.stages.train.records import TrainingImage, visit_order
from expo_cli.stages.train.reference import Reference


class ImageEvidence(EvidenceStream):
    """The errors of single images, each with its own noise.

    Desirable and undesirable images have separate epochs. With the default share of 0.8, four of
    every five visits are to desirable images.
    """

    favoured, other = "desirable", "undesirable"

    def __init__(
        self,
        images: Sequence[TrainingImage],
        objective: DiffusionKTO,
        policy: DiffusionModel,
        reference: Reference | None,
        config: TrainConfig,
    ) -> None:
        self.mismatched = is_mismatched(objective)
        if self.mismatched and config.train_batch_size < 2:
            raise UsageError("reference_point=mismatched needs a --train-batch-size of at least 2")
        self.classes, self.num_files = classes(images, config), images[-1].file + 1
        self.objective, self.config = objective, config
        self.maker = RowMaker(config, policy, Latents(images[0].folder, images[0].ref, policy))
        self.denoiser, self.device = Denoiser(policy, reference), policy.device

    @staticmethod
    def prompts(
        records: Sequence[TrainingImage],
        objective: DiffusionKTO,
        config: TrainConfig,
        start: int,
        count: int,
    ) -> Iterator[str]:
        if config.caption_dropout:
            yield ""
        for image, _ in image_visits(classes(records, config), objective, start, count):
            yield image.prompt

    @staticmethod
    def distinct_visits(
        records: Sequence[TrainingImage], objective: DiffusionKTO, config: TrainConfig
    ) -> int | None:
        if config.noise_draws is None or is_mismatched(objective):
            return None
        shares = {True: objective.desirable_fraction, False: 1 - objective.desirable_fraction}
        all_classes = classes(records, config).items()
        return (
            math.ceil(max(each.order.num_distinct / shares[label] for label, each in all_classes))
            + 1
        )

    def batch(self, start: int, count: int) -> ImageErrors:
        images, rows = self.rows(start, count)
        errors, mismatched = self.denoiser.errors(rows), None
        if self.mismatched:
            with torch.no_grad():
                mismatched = self.denoiser.errors(under_other_prompts(rows))
        desirable = torch.tensor([image.desirable for image in images])
        return ImageErrors(errors, desirable.to(errors.policy.device), mismatched)

    def complete(
        self, errors: ImageErrors | None, mean: Callable[[Tensor], Tensor]
    ) -> ImageErrors | None:
        """Sets the mean over the images of all processes, which the reference point is."""
        if errors is None:
            mean(torch.zeros((), device=self.device))
            return None
        return replace(errors, mean_gain=mean(self.objective.mean_gain(errors)))

    def refer(self, start: int, count: int) -> None:
        _, rows = self.rows(start, count)
        self.denoiser.refer(rows)
        if self.mismatched:
            self.denoiser.refer(under_other_prompts(rows))

    def rows(self, start: int, count: int) -> tuple[list[TrainingImage], list[Row]]:
        """The micro-batch of some visits, one row per image."""
        images, rows = [], []
        for image, visit in image_visits(self.classes, self.objective, start, count):
            name = image.image_id
            images.append(image)
            rows.append(
                self.maker.row(image.folder, image.ref, image.prompt, name, name, visit.draw)
            )
        return images, rows

    def files(self, start: int, count: int) -> list[int]:
        visited = image_visits(self.classes, self.objective, start, count)
        return [image.file for image, _ in visited]

    def measure(self, errors: ImageErrors) -> dict[str, Tensor]:
        """Means over a micro-batch.

        desirable_error, undesirable_error and the reference's; their changes against the
        reference; the reference point; implicit_accuracy: share of images whose error moved
        as their label asks, relative to the reference point; saturation.
        """
        values = {}
        for name, chosen in (("desirable", errors.desirable), ("undesirable", ~errors.desirable)):
            if chosen.any():
                some = Errors(errors.image.policy[chosen], errors.image.reference[chosen])
                values[f"{name}_error"] = some.policy.mean()
                values[f"reference_{name}_error"] = some.reference.mean()
                values[f"{name}_error_change"] = some.change.mean()
        objective = self.objective
        values["implicit_accuracy"] = (objective.logits(errors) > 0).float().mean()
        values["reference_point"] = objective.zero_point(errors)
        return values | saturation(objective, errors)

    def preferences(self, errors: ImageErrors) -> dict[str, Tensor]:
        """The margin is how much further the error moved as the label asks than the reference point."""
        margin = (self.objective.logits(errors) / self.objective.beta).detach()
        return {"implicit_accuracy": margin > 0, "implicit_margin": margin}


def is_mismatched(objective: DiffusionKTO) -> bool:
    return objective.reference_point == "mismatched"


@dataclass(frozen=True)
class ImageClass:
    """The desirable or the undesirable images, and the order of the visits to them."""

    images: Sequence[TrainingImage]
    order: VisitOrder


def classes(images: Sequence[TrainingImage], config: TrainConfig) -> dict[bool, ImageClass]:
    """The images by label; --mix holds within each class."""
    found = {label: [i for i in images if i.desirable == label] for label in (True, False)}
    return {label: ImageClass(some, visit_order(some, config)) for label, some in found.items()}


def image_visits(
    classes: Mapping[bool, ImageClass], objective: DiffusionKTO, start: int, count: int
) -> Iterator[tuple[TrainingImage, Visit]]:
    """Visits `start` to `start + count` of the stream, each with its image."""
    for place in range(start, start + count):
        label, number = balanced(place, objective.desirable_fraction)
        (visit,) = classes[label].order.visits(number, 1)
        yield classes[label].images[visit.item], visit


def under_other_prompts(rows: Sequence[Row]) -> list[Row]:
    """The same noisy latents, each with the prompt of the row before it."""
    neighbours = [rows[-1], *rows[:-1]]
    return [replace(row, prompt=other.prompt) for row, other in zip(rows, neighbours, strict=True)]
