"""Knobs of `expo prep-prompts`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from expo_cli.config.common import CommonConfig, Flag, check_positive


@dataclass(frozen=True, kw_only=True)
class PrepPromptsConfig(CommonConfig):
    layout: Annotated[
        Literal[
            "auto",
            "txt",
            "csv",
            "tsv",
            "jsonl",
            "parquet",
            "pick-a-pic",
            "hpdv2",
            "hps-benchmark",
            "parti-prompts",
        ],
        Flag("How to read the inputs; auto goes by the file's ending.", "Reading"),
    ] = "auto"
    prompt_column: Annotated[
        str | None,
        Flag(
            "Column of the prompt; 'prompt' by default ('caption' in pick-a-pic, 'Prompt' in "
            "parti-prompts).",
            "Reading",
        ),
    ] = None
    category_column: Annotated[
        str | None,
        Flag(
            "Column of the category; 'category', if there is one ('Category' in parti-prompts).",
            "Reading",
        ),
    ] = None
    keep_all: Annotated[
        bool,
        Flag(
            "Keep repeated prompts and prompts of any length: a benchmark is drawn whole.",
            "Choosing",
        ),
    ] = False
    max_tokens: Annotated[
        int, Flag("Drop prompts of more tokens, both end marks counted.", "Choosing")
    ] = 77
    tokenizer: Annotated[
        str | None,
        Flag(
            "Whose tokens: a model or tokenizer folder, or hub id; CLIP's by default.", "Choosing"
        ),
    ] = None
    sample: Annotated[
        int | None,
        Flag("Keep N prompts to train on, chosen by hash of --seed and prompt.", "Choosing"),
    ] = None
    heldout_fraction: Annotated[
        float,
        Flag("Share of prompts held out, by hash of the prompt whatever the seed.", "Choosing"),
    ] = 0.0
    heldout_sample: Annotated[
        int | None, Flag("Keep N of the held-out prompts, chosen likewise.", "Choosing")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            max_tokens=self.max_tokens, sample=self.sample, heldout_sample=self.heldout_sample
        )
        if not 0 <= self.heldout_fraction < 1:
            raise ValueError(f"--heldout-fraction must be in [0, 1), got {self.heldout_fraction}")
        if self.keep_all and (self.sample or self.heldout_sample or self.max_tokens != 77):
            raise ValueError("--keep-all contradicts --sample, --heldout-sample and --max-tokens")
        if self.heldout_sample and not self.heldout_fraction:
            raise ValueError("--heldout-sample needs --heldout-fraction")
