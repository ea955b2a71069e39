"""A T5 encoder of random weights and a tokenizer of single letters."""

import string

from transformers import T5Config, T5EncoderModel, T5Tokenizer

XXL = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}


def t5(width: int) -> tuple[T5Tokenizer, T5EncoderModel]:
    """T5-XXL, version 1.1, where `width` is its 4096."""
    letters = [(letter, -2.0) for letter in "▁" + string.ascii_letters + string.punctuation]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters]
    tiny = {
        "vocab_size": 256,
        "d_model": width,
        "d_kv": 8,
        "d_ff": 2 * width,
        "num_layers": 2,
        "num_heads": 2,
    }
    config = T5Config(**XXL if width == XXL["d_model"] else tiny)
    return T5Tokenizer(vocab=vocabulary), T5EncoderModel(config)
