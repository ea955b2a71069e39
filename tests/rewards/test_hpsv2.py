"""HPSv2: its preprocessing by hand, the network against open_clip, all of it against hpsv2's own."""

import gzip
import importlib
import importlib.util
import json
import shutil
import sys
import types
from pathlib import Path
from unittest import mock

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms import functional as transforms

from expo_cli.errors import ContractError, UsageError
from expo_cli.registry import REWARDS, build
from expo_cli.rewards.hpsv2 import HPSv2
from expo_cli.rewards.open_clip_network import fit_into_square
from expo_cli.rewards.protocol import Batch
from tests.tiny_rewards import OPEN_CLIP

MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
SIZES = [(32, 32), (64, 40), (33, 90), (20, 20), (7, 32)]
PROMPTS = ["a red cat", "A Dog &amp; 7 cafés, 象's", "a red cat", "cats and dogs " * 60, "an owl"]


def noise_image(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def batch():
    images = [noise_image(*size, seed) for seed, size in enumerate(SIZES)]
    return Batch([f"s{n}" for n in range(5)], PROMPTS, images)


def loaded(reward):
    reward.load(torch.device("cpu"), torch.float32)
    return reward


@pytest.fixture(scope="module")
def reward(tiny_open_clip):
    return loaded(HPSv2(model=str(tiny_open_clip)))


# Preprocessing


def test_a_wide_image_lies_in_the_middle_of_a_black_square():
    red = Image.new("RGB", (8, 4), (255, 0, 0))
    square = fit_into_square(red, 4, antialias=True)
    # 8x4 becomes 4x2: one black row above, one below.
    assert torch.allclose(square[0], torch.tensor([[0.0], [1], [1], [0]]).expand(4, 4), atol=1e-6)
    assert square[1:].abs().max() == 0


def test_the_odd_row_of_padding_is_below():
    # 4x3 in 4: nothing is resized, the one row to add goes below.
    white = Image.new("RGB", (4, 3), "white")
    assert fit_into_square(white, 4, antialias=True)[0, :, 0].tolist() == [1, 1, 1, 0]


def test_an_image_of_the_right_size_is_left_as_it_is():
    image = noise_image(32, 32)
    assert torch.equal(fit_into_square(image, 32, antialias=True), transforms.to_tensor(image))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("antialias", [True, False])
def test_the_long_side_is_resized_on_the_tensor(size, antialias):
    width, height = size
    image = noise_image(width, height)
    long = max(size)
    inner = round(height * 32 / long), round(width * 32 / long)
    resized = torch.nn.functional.interpolate(
        transforms.to_tensor(image)[None], inner, mode="bicubic", antialias=antialias
    )[0]
    top, left = (32 - inner[0]) // 2, (32 - inner[1]) // 2
    square = fit_into_square(image, 32, antialias)
    found = square[:, top : top + inner[0], left : left + inner[1]]
    assert torch.allclose(found, resized, atol=1e-6)
    assert torch.count_nonzero(square) <= resized.numel()


def test_antialiasing_changes_the_score_and_the_identity(tiny_open_clip, batch, reward):
    sharp = loaded(build(REWARDS, f"hpsv2:model={tiny_open_clip},antialias=false"))
    assert sharp.judge(batch).raw[1] != pytest.approx(reward.judge(batch).raw[1], abs=1e-6)
    assert sharp.judge(batch).raw[0] == reward.judge(batch).raw[0]  # 32x32: nothing is resized
    assert sharp.identity() == reward.identity() | {"antialias": False}


# The network


def test_the_score_is_a_hundred_times_open_clips_cosine(tiny_open_clip, batch, reward):
    network = open_clip.CLIP(**OPEN_CLIP).eval()
    network.load_state_dict(load_file(tiny_open_clip / "open_clip_model.safetensors"))
    tokens = open_clip.tokenize(batch.prompts)
    assert tokens[3, -1] == 49407  # cut to 77 tokens, the end mark kept
    expected = []
    for image, row in zip(batch.images, tokens, strict=True):
        pixels = transforms.normalize(fit_into_square(image, 32, True), MEAN, STD)[None]
        with torch.no_grad():
            features, words, _ = network(pixels, row[None])
        expected.append((features @ words.T).item())
    judgement = reward.judge(batch)
    assert judgement.raw == pytest.approx(expected, abs=1e-5)
    assert judgement.scale == 100
    assert judgement.embeddings.shape == (5, 16)


def test_checkpoints_of_every_kind_say_the_same(tiny_open_clip, batch, reward, tmp_path):
    weights = tiny_open_clip / "open_clip_model.safetensors"
    config = tmp_path / "tiny-arch.json"
    config.write_text(json.dumps(OPEN_CLIP))
    pickled = tmp_path / "HPS_v2.1_compressed.pt"
    torch.save({"state_dict": load_file(weights)}, pickled)
    expected = reward.judge(batch).raw
    for checkpoint, architecture in (
        (weights, config),
        (pickled, config),
        (pickled, tiny_open_clip),
        (pickled, tiny_open_clip / "open_clip_config.json"),
    ):
        other = loaded(HPSv2(checkpoint=str(checkpoint), config=str(architecture)))
        assert other.judge(batch).raw == expected


def test_a_checkpoint_that_holds_more_than_tensors_is_not_read(tiny_open_clip, tmp_path):
    pickled = tmp_path / "evil.pt"
    torch.save({"state_dict": {}, "path": Path("/")}, pickled)
    with pytest.raises(ContractError, match="more than tensors"):
        loaded(HPSv2(checkpoint=str(pickled), config=str(tiny_open_clip)))


def test_weights_of_another_architecture_are_one_line(tiny_open_clip, tmp_path):
    config = tmp_path / "wide.json"
    config.write_text(json.dumps(OPEN_CLIP | {"embed_dim": 24}))
    weights = tiny_open_clip / "open_clip_model.safetensors"
    with pytest.raises(ContractError, match="size mismatch"):
        loaded(HPSv2(checkpoint=str(weights), config=str(config)))


def test_an_unknown_architecture_gets_the_nearest_name(tiny_open_clip):
    weights = tiny_open_clip / "open_clip_model.safetensors"
    with pytest.raises(UsageError, match="did you mean 'ViT-H-14'"):
        loaded(HPSv2(checkpoint=str(weights), config="ViT-H14"))


def test_files_that_are_missing_or_torn_are_one_line(tiny_open_clip, tmp_path):
    folder = shutil.copytree(tiny_open_clip, tmp_path / "copy")
    weights = folder / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ContractError, match="cannot be loaded"):
        loaded(HPSv2(model=str(folder)))
    weights.unlink()
    with pytest.raises(ContractError, match="open_clip_model.safetensors is missing"):
        loaded(HPSv2(model=str(folder)))


@pytest.mark.parametrize(
    "options", ["version=2.1,model=m", "checkpoint=a.pt,model=m", "config=ViT-H-14", "version=3"]
)
def test_contradictory_options_are_refused(options):
    with pytest.raises(UsageError):
        build(REWARDS, f"hpsv2:{options}")


# The hpsv2 package


@pytest.fixture(scope="module")
def hps_package():
    """hpsv2's copy of open_clip: its transforms, tokenizer and network.

    The package itself cannot be imported as installed: its tokenizer's vocabulary is missing. It
    is the same file as open_clip's.
    """
    spec = importlib.util.find_spec("hpsv2")
    if spec is None:
        pytest.skip("needs the extra hpsv2")
    package = types.ModuleType("hps_open_clip")
    package.__path__ = [str(Path(spec.origin).parent / "src" / "open_clip")]
    sys.modules["hps_open_clip"] = package
    vocabulary = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    with mock.patch("gzip.open", return_value=gzip.open(vocabulary)):
        return types.SimpleNamespace(
            transform=importlib.import_module("hps_open_clip.transform"),
            tokenizer=importlib.import_module("hps_open_clip.tokenizer"),
            model=importlib.import_module("hps_open_clip.model"),
        )


def test_scores_equal_those_of_the_hpsv2_package(hps_package, tiny_open_clip, batch, reward):
    network = hps_package.model.CLIP(**OPEN_CLIP, output_dict=True).eval()
    network.load_state_dict(load_file(tiny_open_clip / "open_clip_model.safetensors"))
    preprocess = hps_package.transform.image_transform(32, is_train=False, resize_longest_max=True)
    expected = []
    # The package does not pad an image whose long side is the image size; its network then fails.
    for image, prompt in zip(batch.images[:4], batch.prompts, strict=False):
        with torch.no_grad():
            out = network(preprocess(image)[None], hps_package.tokenizer.tokenize([prompt]))
        expected.append((out["image_features"] @ out["text_features"].T).item())
    assert reward.judge(batch).raw[:4] == pytest.approx(expected, abs=1e-6)
