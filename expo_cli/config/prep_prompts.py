"""Settings of `expo prep-prompts`."""

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
        Flag("Format of the inputs; auto goes by the file extension.", "Reading"),
    ] = "auto"
    prompt_column: Annotated[
        str | None,
        Flag(
            "Column of the prompt (default: prompt; in pick-a-pic caption, in parti-prompts "
            "Prompt).",
            "Reading",
        ),
    ] = None
    category_column: Annotated[
        str | None,
        Flag(
            "Column of the category (default: category, if there is one; in parti-prompts "
            "Category).",
            "Reading",
        ),
    ] = None
    keep_all: Annotated[
        bool,
        Flag(
            "Keep duplicates and prompts of any length, so that a benchmark stays complete.",
            "Choosing",
        ),
    ] = False
    category: Annotated[
        tuple[str, ...],
        Flag("Keep only prompts of this category; may be repeated.", "Choosing"),
    ] = ()
    max_tokens: Annotated[
        int, Flag("Drop prompts with more tokens, counting the start and end token.", "Choosing")
    ] = 77
    tokenizer: Annotated[
        str | None,
        Flag(
            "Tokenizer that counts: a model folder, tokenizer folder or hub id (default: CLIP's).",
            "Choosing",
        ),
    ] = None
    sample: Annotated[
        int | None,
        Flag("Keep N training prompts, chosen by a hash of --seed and the prompt.", "Choosing"),
    ] = None
    heldout_fraction: Annotated[
        float,
        Flag(
            "Fraction of prompts to hold out, by a hash of the prompt that does not depend on "
            "--seed.",
            "Choosing",
        ),
    ] = 0.0
    heldout_sample: Annotated[
        int | None,
        Flag("Keep N of the held-out prompts, chosen in the same way as --sample.", "Choosing"),
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
