"""HPSv2, HPSv2.1 and PickScore at the full width of ViT-H-14 (986 million random weights).

Against hpsv2's own `score`, and against transformers alone, on the same files and images. Each
test writes 4 GB, the package takes 12.5 GB of memory, and all of them 5 minutes on two cores. They
print what they found:

    python -m pytest -s -m nightly tests/rewards/test_full_width.py

Seen: cosines within 6e-8 of hpsv2's for both versions; PickScores within 1.1e-6 of transformers'.
"""

import gzip
import importlib
import math
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers.models.clip.configuration_clip import CLIPConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.clip.modeling_clip import CLIPModel
from transformers.models.clip.processing_clip import CLIPProcessor
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from expo_cli.contracts.sources import model_folder
from expo_cli.rewards.hpsv2 import HPSv2
from expo_cli.rewards.pickscore import PickScore
from expo_cli.rewards.protocol import Batch

pytestmark = pytest.mark.nightly

PROMPT = "a red cat and an owl, 8 cafés"
SIZES = [(512, 512), (512, 384), (300, 500), (100, 90)]


def random_weights(network: torch.nn.Module, seed: int) -> dict[str, Tensor]:
    """Weights for a network on the meta device, such that images and texts differ in what comes out.

    Matrices keep the length of what they multiply; norms and logit scale are as they begin.
    """
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, tensor in network.state_dict().items():
        if name == "logit_scale":
            made[name] = torch.tensor(math.log(100.0))
        elif tensor.ndim > 1:
            spread = tensor[0].numel() ** -0.5
            made[name] = torch.randn(tensor.shape, generator=generator) * spread
        elif name.endswith("weight"):
            made[name] = torch.ones(tensor.shape)
        else:
            made[name] = torch.randn(tensor.shape, generator=generator) * 0.1
    return made


@pytest.fixture(scope="module")
def batch():
    noise = np.random.default_rng(0)
    images = []
    for width, height in SIZES:
        # Noise of several grains: fine noise alone is grey once it is resized.
        coarse = Image.fromarray(noise.integers(0, 256, (7, 7, 3), dtype=np.uint8))
        fine = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
        images.append(Image.blend(coarse.resize((width, height)), Image.fromarray(fine), 0.3))
    return Batch([f"s{n}" for n in range(len(SIZES))], [PROMPT] * len(SIZES), images)


def judged(reward, batch):
    reward.load(torch.device("cpu"), torch.float32)
    return reward.judge(batch)


@pytest.fixture(scope="module")
def hpsv2():
    """The package. What it lacks is made up for: the vocabulary that its wheel forgot, which is
    open_clip's, and the LAION weights, which it would download before it loads the checkpoint.
    """
    pytest.importorskip("clint", reason="needs the extra hpsv2")
    vocabulary = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    with mock.patch("gzip.open", return_value=gzip.open(vocabulary)):
        package = importlib.import_module("hpsv2")
        scoring = importlib.import_module("hpsv2.img_score")
    create = scoring.create_model_and_transforms

    def create_without_weights(architecture, pretrained, **settings):
        return create(architecture, None, **settings)

    with mock.patch.object(scoring, "create_model_and_transforms", create_without_weights):
        yield package


@pytest.mark.parametrize(
    ("version", "file"), [("2.0", "HPS_v2_compressed.pt"), ("2.1", "HPS_v2.1_compressed.pt")]
)
def test_hpsv2_equals_the_packages_own_score(version, file, hpsv2, batch, tmp_path, monkeypatch):
    with torch.device("meta"):
        network = open_clip.CLIP(**open_clip.get_model_config("ViT-H-14"))
    seed = int(10 * float(version))
    torch.save({"state_dict": random_weights(network, seed)}, tmp_path / file)

    # Both ask the hub for the file of the version, and get the one that was made here.
    def download(repository, name, **_):
        assert (repository, name) == ("xswu/HPSv2", file)
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    judgement = judged(HPSv2(version=version), batch)
    expected = [float(score) for score in hpsv2.score(batch.images, PROMPT, f"v{version}")]
    (tmp_path / file).unlink()
    sys.stderr.write(f"\nhpsv2 {version}: {judgement.raw}, the package's {expected}")
    assert np.ptp(expected) > 1e-2
    assert judgement.raw == pytest.approx(expected, abs=1e-4)


def test_pickscore_equals_a_computation_by_transformers(batch, tmp_path):
    config = CLIPConfig(
        text_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "hidden_act": "gelu",
            "bos_token_id": 49406,
            "eos_token_id": 49407,
        },
        vision_config={
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_attention_heads": 16,
            "num_hidden_layers": 32,
            "hidden_act": "gelu",
            "patch_size": 14,
        },
        projection_dim=1024,
    )
    with torch.device("meta"):
        network = CLIPModel(config)
    config.save_pretrained(tmp_path)
    save_file(random_weights(network, 0), tmp_path / "model.safetensors", {"format": "pt"})
    tokenizer = CLIPTokenizer.from_pretrained(model_folder("embedded:emoji-pickscore"))
    # That of PickScore's day; transformers' present default resizes otherwise, which is 8e-4 here.
    processor = CLIPProcessor(CLIPImageProcessorPil(), tokenizer)
    processor.save_pretrained(tmp_path)
    judgement = judged(PickScore(model=str(tmp_path)), batch)

    # As the model card of PickScore_v1 does it.
    model = CLIPModel.from_pretrained(tmp_path).eval()
    settings = {"padding": True, "truncation": True, "max_length": 77, "return_tensors": "pt"}
    with torch.no_grad():
        images = model.get_image_features(
            **processor(images=batch.images, **settings)
        ).pooler_output
        texts = model.get_text_features(**processor(text=PROMPT, **settings)).pooler_output
        images = images / images.norm(dim=-1, keepdim=True)
        texts = texts / texts.norm(dim=-1, keepdim=True)
        expected = (model.logit_scale.exp() * (texts @ images.T))[0].tolist()
    (tmp_path / "model.safetensors").unlink()
    scores = [raw * judgement.scale for raw in judgement.raw]
    sys.stderr.write(f"\npickscore: {scores}, transformers' {expected}")
    assert np.ptp(expected) > 0.1
    assert scores == pytest.approx(expected, abs=1e-4)
