"""What DiffusionKTO sees of labelled images: which are visited when, and under which prompts."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from expo_cli.config import TrainConfig
from expo_cli.contracts.records import SampleRef
from expo_cli.contracts.tensors import write_tensors
from expo_cli.core.objectives import DiffusionKTO, Errors, ImageErrors
from expo_cli.errors import UsageError
from expo_cli.models.loading import load_model
from expo_cli.stages.train.image_evidence import ImageEvidence
from expo_cli.stages.train.records import TrainingImage
from expo_cli.stages.train.reference import Reference


@pytest.fixture(scope="module")
def policy(tiny_sd):
    model = load_model(str(tiny_sd), torch.device("cpu"), torch.float32)
    model.network.requires_grad_()
    return model


@pytest.fixture(scope="module")
def other(tiny_sd_other):
    return load_model(str(tiny_sd_other), torch.device("cpu"), torch.float32)


@pytest.fixture
def images(tmp_path):
    """Make a number of desirable and undesirable images of random latents."""

    def make(num_desirable: int, num_undesirable: int) -> list[TrainingImage]:
        generator = torch.Generator().manual_seed(0)
        labels = [True] * num_desirable + [False] * num_undesirable
        latents = {
            f"s{n}": torch.randn(4, 8, 8, generator=generator).half() for n in range(len(labels))
        }
        write_tensors(tmp_path / "part.safetensors", latents)
        return [
            labelled(tmp_path, n, f"prompt {n}", desirable) for n, desirable in enumerate(labels)
        ]

    return make


def labelled(folder: Path, n: int, prompt: str, desirable: bool) -> TrainingImage:
    return TrainingImage(
        image_id=f"pair{n}/x",
        prompt=prompt,
        ref=SampleRef(sample_id=f"s{n}", part="part.safetensors"),
        desirable=desirable,
        folder=folder,
        file=0,
    )


def data(images, policy, reference=None, objective=None, **settings) -> ImageEvidence:
    config = TrainConfig(init_from="", **settings)
    return ImageEvidence(images, objective or DiffusionKTO(), policy, reference, config)


@pytest.mark.parametrize("fraction", [0.8, 0.5, 0.25])
@pytest.mark.parametrize(("num_desirable", "num_undesirable"), [(3, 3), (1, 8), (8, 1)])
def test_desirable_images_are_visited_as_often_as_said_whatever_their_share(
    fraction, num_desirable, num_undesirable, images, policy
):
    objective = DiffusionKTO(desirable_fraction=fraction)
    some = images(num_desirable, num_undesirable)
    visited, _ = data(some, policy, objective=objective).rows(0, 360)
    assert sum(image.desirable for image in visited) == 360 * fraction
    for label in (True, False):
        counts = Counter(image.image_id for image in visited if image.desirable == label)
        assert len(counts) == (num_desirable if label else num_undesirable)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_images_have_noise_and_timesteps_of_their_own_at_every_visit(images, policy):
    _, rows = data(images(2, 2), policy).rows(0, 40)
    assert len({row.noise.numpy().tobytes() for row in rows}) == 40
    assert len({row.timestep for row in rows}) > 30


def test_rows_do_not_depend_on_how_the_stream_is_cut(images, policy):
    stream = data(images(3, 2), policy, caption_dropout=0.3)
    whole, rows = stream.rows(0, 20)
    cut, later = stream.rows(13, 7)
    assert cut == whole[13:]
    for row, same in zip(later, rows[13:], strict=True):
        assert row.noise.equal(same.noise)
        assert (row.timestep, row.prompt) == (same.timestep, same.prompt)


def test_captions_are_dropped_as_often_as_said(images, policy):
    some = images(3, 2)
    _, rows = data(some, policy, caption_dropout=0.2).rows(0, 1000)
    assert [row.prompt for row in rows].count("") / 1000 == pytest.approx(0.2, abs=0.05)
    _, rows = data(some, policy, caption_dropout=1.0).rows(0, 20)
    assert {row.prompt for row in rows} == {""}


def test_mismatched_errors_are_those_under_the_other_images_prompt(images, policy, other):
    objective = DiffusionKTO(reference_point="mismatched", desirable_fraction=0.5)
    first, second = images(1, 1)
    swapped = [
        labelled(first.folder, 0, second.prompt, desirable=True),
        labelled(first.folder, 1, first.prompt, desirable=False),
    ]
    reference = Reference(lambda: other)
    matched = data([first, second], policy, reference, objective).batch(0, 2)
    crossed = data(swapped, policy, reference, objective).batch(0, 2)
    torch.testing.assert_close(matched.mismatched.policy, crossed.image.policy)
    torch.testing.assert_close(matched.mismatched.reference, crossed.image.reference)
    assert not torch.allclose(matched.mismatched.policy, matched.image.policy)
    assert matched.image.policy.requires_grad
    assert not matched.mismatched.policy.requires_grad


def test_mismatched_prompts_need_two_images_a_batch(images, policy):
    with pytest.raises(UsageError, match="needs a --train-batch-size of at least 2"):
        data(
            images(1, 1),
            policy,
            objective=DiffusionKTO(reference_point="mismatched"),
            train_batch_size=1,
        )


def judged(g: list[float], desirable: list[bool]) -> ImageErrors:
    """Images with the given g = m_ref - m_policy."""
    reference = torch.full((len(g),), 0.5)
    return ImageErrors(Errors(reference - torch.tensor(g), reference), torch.tensor(desirable))


def test_measurements_by_hand(images, policy):
    stream = data(images(1, 1), policy)
    # z0 = 0.1; the first and the last image are on the side of it that their labels ask for.
    values = stream.measure(judged([0.3, 0.0, 0.2, -0.1], [True, True, False, False]))
    expected = {
        "desirable_error": 0.5 - 0.15,
        "reference_desirable_error": 0.5,
        "desirable_error_change": -0.15,
        "undesirable_error": 0.5 - 0.05,
        "reference_undesirable_error": 0.5,
        "undesirable_error_change": -0.05,
        "implicit_accuracy": 0.5,
        "reference_point": 0.1,
        "saturation": 1.0,  # beta 1000: every logit is 100 or more from 0
    }
    assert {name: value.item() for name, value in values.items()} == pytest.approx(expected)
    assert not any("undesirable" in name for name in stream.measure(judged([0.1], [True])))


@pytest.mark.parametrize(
    "utility", ["kahneman-tversky", "loss-averse", "risk-seeking", "exponential"]
)
def test_nothing_is_saturated_where_the_policy_is_its_reference(utility, images, policy):
    stream = data(images(1, 1), policy, objective=DiffusionKTO(utility=utility))
    assert stream.measure(judged([0.0] * 4, [True, False] * 2))["saturation"] == 0
