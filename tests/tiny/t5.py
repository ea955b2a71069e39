"""A T5 encoder of random weights and a tokenizer of single letters."""

import string

from transformers import T5Config, T5EncoderModel, T5Tokenizer


def t5(width: int) -> tuple[T5Tokenizer, T5EncoderModel]:
    letters = [(letter, -2.0) for letter in "▁" + string.ascii_letters + string.punctuation]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters]
    encoder = T5EncoderModel(
        T5Config(vocab_size=256, d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=2)
    )
    return T5Tokenizer(vocab=vocabulary), encoder
