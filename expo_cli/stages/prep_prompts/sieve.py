"""Filters rows into prompts, and holds these until the last row is read."""

import tempfile
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from itertools import compress
from typing import Self

import msgspec
import numpy as np
from tokenizers import Tokenizer

from expo_cli.contracts.ids import prompt_id
from expo_cli.contracts.records import Prompt
from expo_cli.core.prompts import identity, normalise, sample_rank, without_controls
from expo_cli.stages.prep_prompts.sources import Row
from expo_cli.stages.prep_prompts.token_counts import TokenCounter

# Longer prompts are dropped without counting tokens.
MOST_CHARACTERS = 1 << 20
# Number of dropped rows that run.json names for each reason.
NUM_EXAMPLES = 10


class Dropped:
    """Rows dropped for one reason: their number, and the places of the first ones."""

    def __init__(self) -> None:
        self.count = 0
        self.examples: list[str] = []

    def add(self, where: str) -> None:
        self.count += 1
        if self.count <= NUM_EXAMPLES:
            self.examples.append(where)


class Sieve:
    """Passes each prompt once, if it is not empty, not too long and of one of the `categories` (all
    of them if there are none); counts the others.

    With `keep_all` it drops only prompts that are empty or longer than MOST_CHARACTERS; a repeated
    prompt gets another id. `num_cleaned` counts the rows with control characters.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_tokens: int,
        keep_all: bool = False,
        categories: Collection[str] = (),
    ) -> None:
        self.counter, self.max_tokens = TokenCounter(tokenizer), max_tokens
        self.keep_all, self.categories = keep_all, categories
        self.num_rows = self.num_cleaned = self.num_other_categories = 0
        self.empty, self.duplicates, self.too_long = Dropped(), Dropped(), Dropped()
        self._seen: set[int] = set()
        self._copies: Counter[str] = Counter()

    def passed(self, rows: Sequence[tuple[str, Row]]) -> Iterator[Prompt]:
        """Yields the new prompts of a batch of (place, row) that are short enough."""
        self.num_rows += len(rows)
        new: list[tuple[str, Row, str]] = []
        for where, row in rows:
            if self.categories and row.category not in self.categories:
                self.num_other_categories += 1
                continue
            if row.too_long or len(row.text) > MOST_CHARACTERS:
                self.too_long.add(f"{where} (more than {MOST_CHARACTERS} characters)")
                continue
            kept = without_controls(row.text)
            self.num_cleaned += kept != row.text
            text = normalise(kept)
            if not text:
                self.empty.add(where)
            elif self.keep_all or self._is_new(text):
                new.append((where, row, text))
            else:
                self.duplicates.add(where)
        lengths = self.counter.count([text for _, _, text in new])
        for (where, row, text), num_tokens in zip(new, lengths, strict=True):
            if num_tokens > self.max_tokens and not self.keep_all:
                self.too_long.add(f"{where} ({num_tokens} tokens)")
                continue
            yield Prompt(
                prompt_id=self._id(text),
                prompt=text,
                category=row.category,
                negative_prompt=row.negative_prompt,
                num_tokens=num_tokens,
                source=where,
            )

    def _id(self, text: str) -> str:
        name = prompt_id(text)
        if not self.keep_all:
            return name
        self._copies[name] += 1
        return name if self._copies[name] == 1 else f"{name}-{self._copies[name]}"

    def _is_new(self, text: str) -> bool:
        # 64 bits of sha256, as in prompt_id: colliding prompts could not share a file anyway.
        key = int(prompt_id(identity(text)), 16)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True


class Pool:
    """Prompts for one output: their lines in a temporary file, their sample ranks in memory."""

    def __init__(self, sample: int | None, seed: int) -> None:
        self.sample, self.seed, self.count = sample, seed, 0
        self._ranks = array("Q")
        self._file = tempfile.TemporaryFile()  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # data lost to a full disk is no longer needed
            self._file.close()

    def add(self, prompt: Prompt) -> None:
        self._file.write(msgspec.json.encode(prompt) + b"\n")
        self.count += 1
        if self.sample:
            self._ranks.append(sample_rank(self.seed, prompt.prompt))

    @property
    def num_chosen(self) -> int:
        return min(self.count, self.sample or self.count)

    @property
    def num_left_out(self) -> int:
        return self.count - self.num_chosen

    def chosen(self) -> Iterator[msgspec.Raw]:
        """The lines of the sample, in input order."""
        self._file.seek(0)
        lines = (msgspec.Raw(line.removesuffix(b"\n")) for line in self._file)
        if not self.num_left_out:
            return lines
        ranks = np.frombuffer(self._ranks, np.uint64)
        highest = np.partition(ranks, self.sample - 1)[self.sample - 1]
        return compress(lines, ranks <= highest)
