"""Prompts of a batch, each encoded once."""

from collections.abc import Sequence


def distinct(prompts: Sequence[str]) -> tuple[list[str], list[int]]:
    """The distinct prompts in order of appearance, and for each prompt its row among them."""
    texts = list(dict.fromkeys(prompts))
    row = {text: index for index, text in enumerate(texts)}
    return texts, [row[prompt] for prompt in prompts]
