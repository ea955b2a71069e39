import colorsys
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from expo_cli.core.image_statistics import (
    clipped,
    colorfulness,
    contrast,
    edge_energy,
    image_checks,
    luma,
    saturation,
)


def plain(*color: float) -> torch.Tensor:
    return torch.tensor(color, dtype=torch.float32)[:, None, None].expand(3, 4, 6)


def halves(left: tuple[float, ...], right: tuple[float, ...]) -> torch.Tensor:
    return torch.cat([plain(*left), plain(*right)], dim=2)[None]


def random_images(batch: int = 3) -> torch.Tensor:
    return torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_saturation_is_that_of_hsv():
    images = random_images()
    expected = [
        np.mean([colorsys.rgb_to_hsv(*pixel)[1] for pixel in image.flatten(1).T.tolist()])
        for image in images
    ]
    assert saturation(images).tolist() == pytest.approx(expected, rel=1e-5)
    assert saturation(plain(0, 0, 0)[None]).item() == 0


def test_luma_is_pillows():
    picture = Image.fromarray((255 * random_images(1)[0].permute(1, 2, 0)).byte().numpy())
    grey = torch.from_numpy(np.array(picture.convert("L"))).float()
    torch.testing.assert_close(255 * luma(to_tensor(picture)[None])[0], grey, atol=1.0, rtol=0)


def test_contrast_by_hand():
    # Half black, half white: luma is 0 and 1, so its standard deviation is 1/2.
    assert contrast(halves((0, 0, 0), (1, 1, 1))).item() == pytest.approx(0.5)


def test_colorfulness_by_hand():
    # Half red (rg 255, yb 127.5), half black: means are half of that, and so are deviations.
    by_hand = math.hypot(127.5, 63.75) + 0.3 * math.hypot(127.5, 63.75)
    assert colorfulness(halves((1, 0, 0), (0, 0, 0))).item() == pytest.approx(by_hand)
    assert colorfulness(halves((0.2, 0.2, 0.2), (0.9, 0.9, 0.9))).item() == pytest.approx(
        0, abs=1e-4
    )


def test_clipped_counts_what_a_file_stores_as_0_or_255():
    # Red has all three channels at an end; (0.999, 0.5, 0.001) rounds to 255, 128, 0: two of three.
    assert clipped(plain(1, 0, 0)[None]).item() == 1
    assert clipped(plain(0.999, 0.5, 0.001)[None]).item() == pytest.approx(2 / 3)
    assert clipped(plain(0.99, 0.5, 0.01)[None]).item() == 0


def test_edge_energy_by_hand():
    # One of the 11 horizontal steps of a row goes from black to white, no vertical one does.
    assert edge_energy(halves((0, 0, 0), (1, 1, 1))).item() == pytest.approx(1 / 11)


def test_blur_lowers_edge_energy():
    sharp = random_images(1)
    blurred = torch.nn.functional.avg_pool2d(sharp, 3, stride=1, padding=1)
    assert edge_energy(blurred) < edge_energy(sharp)


def test_checks_do_not_depend_on_the_batch():
    images = random_images()
    for image, together in zip(images, image_checks(images), strict=True):
        alone = image_checks(image[None])[0]
        assert asdict(together) == pytest.approx(asdict(alone), rel=1e-5)


def test_broken_images_are_flagged_and_still_have_finite_figures():
    images = random_images(3)
    images[1, 0, 0, 0] = math.nan
    images[2] = 0.001
    checks = image_checks(images)
    assert [check.nan for check in checks] == [False, True, False]
    assert [check.black for check in checks] == [False, False, True]
    assert all(math.isfinite(check.colorfulness) for check in checks)


def test_values_outside_the_range_count_as_clipped():
    assert image_checks(plain(1.3, 0.5, -0.2)[None])[0].clipped == pytest.approx(2 / 3)


def test_half_precision_is_welcome():
    assert image_checks(random_images(1).half())[0].saturation > 0
