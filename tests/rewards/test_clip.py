"""PickScore and CLIP score against a computation with transformers alone."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.clip.modeling_clip import CLIPModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from expo_cli.errors import ContractError, ExpoError
from expo_cli.rewards.clip_score import CLIPScore
from expo_cli.rewards.pickscore import PickScore
from expo_cli.rewards.protocol import Batch

LONG = "a very long prompt about " + "cats and dogs " * 60
PROMPTS = ["a red cat", "a dog", "a red cat", LONG]


@pytest.fixture(scope="module")
def batch():
    noise = np.random.default_rng(0)
    sizes = [(32, 32), (64, 40), (33, 90), (20, 20)]
    images = [
        Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in sizes
    ]
    return Batch(["a", "b", "c", "d"], PROMPTS, images)


@pytest.fixture(scope="module")
def cosines(tiny_clip, batch):
    """One image and one prompt at a time, through CLIPModel's own forward."""
    model = CLIPModel.from_pretrained(tiny_clip).eval()
    tokenizer = CLIPTokenizer.from_pretrained(tiny_clip)
    processor = CLIPImageProcessorPil.from_pretrained(tiny_clip)
    found = []
    for image, prompt in zip(batch.images, batch.prompts, strict=True):
        tokens = tokenizer([prompt], truncation=True, max_length=77, return_tensors="pt")
        assert tokens.input_ids[0, -1] == tokenizer.eos_token_id
        with torch.no_grad():
            out = model(**tokens, **processor([image], return_tensors="pt"))
        cosine = (out.image_embeds @ out.text_embeds.T).item()
        assert out.logits_per_image.item() == pytest.approx(cosine * np.exp(2.0), rel=1e-4)
        found.append(cosine)
    return found


def loaded(reward):
    reward.load(torch.device("cpu"), torch.float32)
    return reward


def test_pickscore_is_what_transformers_computes(tiny_clip, batch, cosines):
    judgement = loaded(PickScore(model=str(tiny_clip))).judge(batch)
    assert judgement.raw == pytest.approx(cosines, abs=1e-5)
    assert judgement.scale == pytest.approx(np.exp(2.0), rel=1e-6)
    assert judgement.embeddings.shape == (4, 16)
    assert judgement.embeddings.norm(dim=-1).tolist() == pytest.approx([1.0] * 4)


def test_clip_score_is_a_hundred_times_the_cosine_or_zero(tiny_clip, batch, cosines, tmp_path):
    # These random weights find no image like its prompt; turned round they find all alike.
    assert max(cosines) < 0
    judgement = loaded(CLIPScore(model=str(tiny_clip))).judge(batch)
    assert (judgement.raw, judgement.scale) == ([0, 0, 0, 0], 100)
    turned = shutil.copytree(tiny_clip, tmp_path / "turned")
    weights = load_file(turned / "model.safetensors")
    weights["visual_projection.weight"] *= -1
    save_file(weights, turned / "model.safetensors", metadata={"format": "pt"})
    judgement = loaded(CLIPScore(model=str(turned))).judge(batch)
    assert judgement.raw == pytest.approx([-cosine for cosine in cosines], abs=1e-5)


def test_a_score_does_not_depend_on_the_rest_of_the_batch(tiny_clip, batch):
    reward = loaded(PickScore(model=str(tiny_clip)))
    together = reward.judge(batch).raw
    alone = [
        reward.judge(Batch([s], [p], [i])).raw[0]
        for s, p, i in zip(batch.sample_ids, batch.prompts, batch.images, strict=True)
    ]
    assert together == pytest.approx(alone, abs=1e-6)


@pytest.fixture
def bare(tiny_clip, tmp_path):
    """The network alone, without tokenizer and preprocessing."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_clip / name, folder)
    return folder


def test_the_processor_can_come_from_another_folder(tiny_clip, bare, batch, cosines):
    reward = loaded(PickScore(model=str(bare), processor=str(tiny_clip)))
    assert reward.judge(batch).raw == pytest.approx(cosines, abs=1e-5)
    assert reward.identity() == PickScore(model=str(tiny_clip)).identity()


def test_pickscore_without_a_processor_takes_that_of_its_training(bare, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(bare))
    with pytest.raises(ExpoError, match="laion/CLIP-ViT-H-14-laion2B-s32B-b79K"):
        PickScore(model=str(bare)).identity()
    with pytest.raises(ContractError, match="processor=FOLDER"):
        CLIPScore(model=str(bare)).identity()


def test_the_identity_follows_weights_and_preprocessing(tiny_clip, tmp_path):
    folder = shutil.copytree(tiny_clip, tmp_path / "copy")
    before = PickScore(model=str(folder)).identity()
    assert before == PickScore(model=str(tiny_clip)).identity()
    config = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(config | {"do_resize": False}))
    assert PickScore(model=str(folder)).identity()["processor"] != before["processor"]
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"logit_scale": torch.tensor(1.0)}, folder / "model.safetensors")
    assert PickScore(model=str(folder)).identity()["weights"] != before["weights"]


def test_a_pickle_is_not_read(bare):
    (bare / "model.safetensors").unlink()
    (bare / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(ContractError, match="must be safetensors"):
        loaded(PickScore(model=str(bare), processor=str(bare)))


def test_half_a_model_is_refused(tiny_clip, tmp_path):
    folder = shutil.copytree(tiny_clip, tmp_path / "half")
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ContractError, match="has no weights visual_projection"):
        loaded(PickScore(model=str(folder)))


def test_a_truncated_file_is_one_line(tiny_clip, tmp_path):
    folder = shutil.copytree(tiny_clip, tmp_path / "torn")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ContractError, match="cannot be loaded as a CLIP"):
        loaded(PickScore(model=str(folder)))
