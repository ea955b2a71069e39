"""Learn a small byte-pair vocabulary and write it in the files of CLIPTokenizer."""

import argparse
import json
from pathlib import Path

from degrade import FLAWS
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer
from world import read_world

NUM_MERGES, MAX_LENGTH = 1600, 32
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")


def corpus(node_modules: Path) -> list[str]:
    """All emoji names and tags, and ten times the world's own captions, so that its words stay whole."""
    emoji = json.loads((node_modules / "emojibase-data/en/data.json").read_text())
    names = [text for entry in emoji for text in (entry["label"], *entry.get("tags", []))]
    captions = [drawing.caption() for drawing in read_world(node_modules)]
    return names + 10 * (captions + list(FLAWS))


def learn_merges(texts: list[str]) -> list[tuple[str, str]]:
    """Split text as CLIP does and merge the most frequent neighbours."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WORDS, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_MERGES + 512, min_frequency=2, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(merge) for merge in merges[:NUM_MERGES]]


def build(merges: list[tuple[str, str]]) -> CLIPTokenizer:
    """Every byte, inside and at the end of a word, then the merges: no text has unknown tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [f"{byte}</w>" for byte in alphabet] + ["".join(pair) for pair in merges]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*tokens, START, END]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("node_modules", type=Path)
    parser.add_argument("work", type=Path)
    arguments = parser.parse_args()
    merges = learn_merges(corpus(arguments.node_modules))
    tokenizer = build(merges)
    folder = arguments.work / "tokenizer"
    tokenizer.save_pretrained(folder)
    # transformers 4 reads these two, transformers 5 either them or tokenizer.json.
    (folder / "vocab.json").write_text(json.dumps(tokenizer.get_vocab(), ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
