"""Random-weight reward models in the layouts of PickScore and of open_clip."""

import json
import shutil
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from transformers.models.clip.configuration_clip import CLIPConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.clip.modeling_clip import CLIPModel

from tests.checkpoints.clip import VIT_L

OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


# OpenAI's ViT-L/14.
FULL_VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}


def clip_model(
    folder: Path,
    tokenizer: Path,
    seed: int = 0,
    logit_scale: float = 2.0,
    full: bool = False,
) -> Path:
    """A CLIPModel folder with a processor of its own, for images of 32x32; `full` is ViT-L/14."""
    torch.manual_seed(seed)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    tower |= {"num_hidden_layers": 2}
    text = VIT_L if full else tower
    vision = FULL_VISION if full else tower | {"image_size": 32, "patch_size": 8}
    config = CLIPConfig(
        text_config=text | {"eos_token_id": 49407},
        vision_config=vision,
        projection_dim=768 if full else 16,
        logit_scale_init_value=logit_scale,
    )
    size = vision["image_size"]
    CLIPModel(config).save_pretrained(folder)
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    ).save_pretrained(folder)
    return folder


def open_clip_model(folder: Path, seed: int = 0) -> Path:
    """A folder that open_clip reads as local-dir:FOLDER, for images of 32x32."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    config = {"model_cfg": OPEN_CLIP, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    state = open_clip.CLIP(**OPEN_CLIP).state_dict()
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()},
        folder / "open_clip_model.safetensors",
    )
    return folder
