"""LAION's aesthetic score against the network as it was published."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.clip.modeling_clip import CLIPModel

from expo_cli.errors import ContractError, ExpoError, UsageError
from expo_cli.registry import REWARDS, build
from expo_cli.rewards.protocol import Batch

WIDTH = 16  # of the small CLIP's embeddings; 768 in ViT-L/14


class MLP(nn.Module):
    """The published predictor (simple_inference.py), but for its width."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(WIDTH, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )


@pytest.fixture(scope="module")
def predictor() -> MLP:
    torch.manual_seed(0)
    return MLP().eval()


@pytest.fixture
def batch() -> Batch:
    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 256, (40, 30 + n, 3), dtype=np.uint8)) for n in range(3)
    ]
    return Batch(["a", "b", "c"], ["not", "looked", "at"], images)


@pytest.mark.parametrize("name", ["predictor.pth", "predictor.safetensors"])
def test_it_is_what_the_published_network_computes(name, predictor, tiny_clip, batch, tmp_path):
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(predictor.state_dict(), path)
    else:
        save_file(predictor.state_dict(), path)
    reward = build(REWARDS, f"laion-aesthetic:weights={path},model={tiny_clip}")
    reward.load(torch.device("cpu"), torch.float32)
    clip = CLIPModel.from_pretrained(tiny_clip).eval()
    processor = CLIPImageProcessorPil.from_pretrained(tiny_clip)
    with torch.no_grad():
        pixels = processor(batch.images, return_tensors="pt").pixel_values
        features = clip.get_image_features(pixels).pooler_output
        expected = predictor.layers(features / features.norm(dim=-1, keepdim=True))[:, 0]
    judgement = reward.judge(batch)
    assert judgement.raw == pytest.approx(expected.tolist(), abs=1e-5)
    assert judgement.scale == 1.0


def test_without_weights_it_says_where_they_are():
    with pytest.raises(UsageError, match="improved-aesthetic-predictor"):
        build(REWARDS, "laion-aesthetic")
    with pytest.raises(ExpoError, match="no such file"):
        build(REWARDS, "laion-aesthetic:weights=nowhere.pth").weights_path()


class Trap:
    def __reduce__(self):
        return print, ("unpickled",)


def test_a_file_of_anything_else_is_refused(predictor, tiny_clip, tmp_path, capsys):
    wrong = {
        "a trap": {"layers.0.weight": Trap()},
        "a list": [torch.zeros(1)],
        "half": dict(list(predictor.state_dict().items())[:4]),
    }
    for content in wrong.values():
        torch.save(content, tmp_path / "p.pth")
        reward = build(REWARDS, f"laion-aesthetic:weights={tmp_path / 'p.pth'},model={tiny_clip}")
        with pytest.raises(ContractError, match=r"p\.pth"):
            reward.load(torch.device("cpu"), torch.float32)
    assert capsys.readouterr().out == ""
