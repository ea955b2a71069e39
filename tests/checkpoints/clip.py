"""CLIP's tokenizer, and text encoders of random weights."""

import gzip
import importlib.util
import json
from pathlib import Path

from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.tokenization_clip import CLIPTokenizer

# What the published checkpoints have: OpenAI's ViT-L/14, and OpenCLIP's ViT-bigG/14.
VIT_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
VIT_BIG_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
}


def clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's own tokenizer files, made from the vocabulary that open_clip ships."""
    package = Path(importlib.util.find_spec("open_clip").origin).parent
    with gzip.open(package / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    letters = [chr(b) for b in visible] + [chr(256 + i) for i in range(len(hidden))]
    words = letters + [letter + "</w>" for letter in letters]
    words += ["".join(merge.split()) for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77})
    )
    return CLIPTokenizer.from_pretrained(str(folder))


def clip_text_config(hidden_size: int, **settings) -> CLIPTextConfig:
    """With CLIP's own vocabulary and end marks; three layers unless `settings` say otherwise."""
    return CLIPTextConfig(
        **{
            "vocab_size": 49408,
            "hidden_size": hidden_size,
            "intermediate_size": 2 * hidden_size,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "hidden_act": "quick_gelu",
            "projection_dim": hidden_size,
            "bos_token_id": 49406,
            "eos_token_id": 49407,
        }
        | settings
    )
