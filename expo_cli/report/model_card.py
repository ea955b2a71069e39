"""The model card of a checkpoint: `README.md` in the format of the Hugging Face Hub."""

import json
import re
from collections.abc import Mapping
from typing import Any, Protocol

from huggingface_hub import ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from expo_cli.report.wording import visible

TEMPLATE = "model_card.md.jinja"


class CardOrigin(Protocol):
    """See `stages.train.origin.Origin`; all of its text is untrusted."""

    hub_base: str | None
    objective: str
    settings: dict[str, Any]
    versions: dict[str, str]


def fence(text: str, shortest: int) -> str:
    """A run of backticks longer than any in `text`."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    return "`" * max(shortest, longest + 1)


def code(text: str) -> str:
    """A one-line code span, in which nothing is markup."""
    text = visible(text)
    around = fence(text, 1)
    return f"{around} {text} {around}" if "`" in text else f"{around}{text}{around}"


def block(text: str, language: str = "") -> str:
    """A code block, in which nothing is markup."""
    text = "\n".join(map(visible, text.split("\n")))
    around = fence(text, 3)
    return f"{around}{language}\n{text}\n{around}"


def lines(values: Mapping[str, Any]) -> str:
    """One `key: JSON` line each; floats are rounded."""
    short = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in values.items()}
    return "\n".join(f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in short.items())


def model_card(origin: CardOrigin, is_lora: bool, measured: Mapping[str, Any]) -> str:
    """The whole file. `measured` is the last line of `metrics.jsonl`."""
    relation = "adapter" if is_lora else "finetune"
    header = ModelCardData(
        # The Hub accepts only its own ids.
        base_model=origin.hub_base,
        base_model_relation=relation if origin.hub_base else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["text-to-image", "diffusers", "preference-learning", "expo"]
        + (["lora"] if is_lora else []),
    )
    environment = Environment(
        loader=PackageLoader("expo_cli.report", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": code, "block": block}
    return environment.get_template(TEMPLATE).render(
        origin=origin,
        is_lora=is_lora,
        header=header.to_yaml(),
        settings=lines(origin.settings),
        measured=lines(measured),
        versions=lines(origin.versions),
    )
