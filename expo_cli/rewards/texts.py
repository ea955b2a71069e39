"""Encodes each distinct prompt of a batch once."""

from collections.abc import Sequence


def distinct(prompts: Sequence[str]) -> tuple[list[str], list[int]]:
    """The distinct prompts in order of appearance, and the index of each prompt among them."""
    texts = list(dict.fromkeys(prompts))
    row = {text: index for index, text in enumerate(texts)}
    return texts, [row[prompt] for prompt in prompts]
