"""Every replaceable part of EXPO by name. Nothing is imported before it is needed.

A part is named by a *spec*: `NAME[:key=value,...]`, or the dotted import path of a class that lives
outside EXPO, with the same options: `my_lab.rewards.Sharpness:radius=2`. A part whose first option
is a string accepts it without its key: `exec:./judge.py` is `exec:program=./judge.py`. Quotation marks
protect commas: `'pickscore:model="models/a,b"'`. An option of several values has slashes between
them: `mixture:guidance_scale=1.5/3`.
"""

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, get_origin, get_type_hints

import msgspec

from expo_cli.errors import UsageError

OBJECTIVES = {
    "sft": "expo_cli.core.objectives.SFT",
    "dpo": "expo_cli.core.objectives.DiffusionDPO",
    "expo": "expo_cli.core.objectives.EXPO",
    "kto": "expo_cli.core.objectives.DiffusionKTO",
    "spo": "expo_cli.core.spo.SPO",
}

EXPLORERS = {
    "same": "expo_cli.core.exploration.Same",
    "previous": "expo_cli.core.exploration.Previous",
    "reference": "expo_cli.core.exploration.Reference",
    "extrapolate": "expo_cli.core.exploration.Extrapolate",
    "sampling": "expo_cli.core.exploration.Sampling",
    "mixture": "expo_cli.core.exploration.Mixture",
    "checkpoint": "expo_cli.core.exploration.Checkpoint",
}

PAIRINGS = {
    "best-worst": "expo_cli.core.pairing.BestWorst",
    "random": "expo_cli.core.pairing.TwoAtRandom",
    "top-bottom": "expo_cli.core.pairing.TopBottom",
    "all": "expo_cli.core.pairing.AllPairs",
    "step-best-worst": "expo_cli.core.pairing.StepBestWorst",
}

# Preferences over images that `expo make-pairs` reads.
LAYOUTS = {
    "pick-a-pic": "expo_cli.stages.preferences.layouts.PickAPic",
    "hpdv2": "expo_cli.stages.preferences.layouts.HPDv2",
    "image-preferences": "expo_cli.stages.preferences.layouts.ImagePreferences",
    "imagefolder": "expo_cli.stages.preferences.layouts.ImageFolder",
}

# Formats in which `expo make-pairs` writes pairs with their images.
EXPORTS = {
    "pick-a-pic": "expo_cli.stages.preferences.exports.PickAPicExport",
    "imagefolder": "expo_cli.stages.preferences.exports.ImageFolderExport",
}

COMBINATIONS = {
    "z-score": "expo_cli.core.combination.ZScoreSum",
    "rank": "expo_cli.core.combination.RankSum",
    "pareto": "expo_cli.core.combination.Pareto",
    "weighted": "expo_cli.core.combination.WeightedSum",
}

REWARDS = {
    "pickscore": "expo_cli.rewards.pickscore.PickScore",
    "step-pickscore": "expo_cli.rewards.step_pickscore.StepPickScore",
    "hpsv2": "expo_cli.rewards.hpsv2.HPSv2",
    "laion-aesthetic": "expo_cli.rewards.laion_aesthetic.LAIONAesthetic",
    "clip-score": "expo_cli.rewards.clip_score.CLIPScore",
    "exec": "expo_cli.rewards.program.Program",
}

# By `_class_name` of the checkpoint's model_index.json. models/README.md says what else a family needs.
MODELS = {
    "StableDiffusionPipeline": "expo_cli.models.stable_diffusion.StableDiffusion",
    "StableDiffusionXLPipeline": "expo_cli.models.stable_diffusion_xl.StableDiffusionXL",
    "StableDiffusion3Pipeline": "expo_cli.models.stable_diffusion_3.StableDiffusion3",
    "FluxPipeline": "expo_cli.models.flux.Flux",
}


# The class that each part of a table inherits from.
BASES = (
    (OBJECTIVES, "objective", "expo_cli.core.objectives.Objective"),
    (EXPLORERS, "explorer", "expo_cli.core.exploration.Explorer"),
    (PAIRINGS, "pairing", "expo_cli.core.pairing.Pairing"),
    (REWARDS, "reward", "expo_cli.rewards.protocol.Reward"),
)
# Methods that a class of any other table must have.
NEEDED = (
    (LAYOUTS, "layout", ("rankings", "read")),
    (EXPORTS, "export", ("write", "finish")),
    (COMBINATIONS, "combination", ("__call__",)),
)
# A comma followed by an even number of quotation marks.
OUTSIDE_QUOTES = re.compile(r',(?=(?:[^"]*"[^"]*")*[^"]*$)')


def nearest(name: str, known: Mapping[str, object] | list[str]) -> str:
    """A hint for an unknown name: the nearest known one, or all of them."""
    matches = get_close_matches(name, list(known), n=1)
    return f"did you mean {matches[0]!r}?" if matches else f"known: {', '.join(sorted(known))}"


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """`NAME:key=value,...` as its name and its options.

    A first item without a key gets the key "". Raises UsageError for any other item
    that is not KEY=VALUE.
    """
    name, _, text = spec.partition(":")
    options = {}
    if text.count('"') % 2:
        raise UsageError(f"{spec}: unbalanced quotation marks")
    for number, item in enumerate(filter(None, OUTSIDE_QUOTES.split(text))):
        key, equals, value = item.partition("=")
        if equals:
            if key.strip().replace("-", "_") in options:
                raise UsageError(f"{spec}: {key.strip()!r} is given twice")
            options[key.strip().replace("-", "_")] = value.strip().replace('"', "")
        elif number == 0:
            options[""] = item.strip().replace('"', "")
        else:
            raise UsageError(f"{spec}: {item!r} is not KEY=VALUE")
    return name, options


def split_label(spec: str) -> tuple[str, str]:
    """`[LABEL=]NAME[:options]` as its label and its spec; the label is the name by default."""
    head, colon, options = spec.partition(":")
    label, equals, name = head.partition("=")
    if equals:
        return label, f"{name}{colon}{options}"
    return head.rpartition(".")[2], spec


def imported(path: str) -> Any:
    """What a dotted path names. Raises ModuleNotFoundError or AttributeError when there is none."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def find(table: Mapping[str, str], name: str) -> type:
    """The class registered under `name`, or the one at the dotted path `name`.

    Raises UsageError, with the nearest name, when there is none.
    """
    path = table.get(name, name)
    if not all(path.split(".")) or "." not in path:
        raise UsageError(f"nothing is called {name!r}; {nearest(name, table)}")
    try:
        part = imported(path)
    except (ModuleNotFoundError, AttributeError) as error:
        if name in table:
            raise
        raise UsageError(f"{name!r} cannot be imported: {error}") from error
    if not isinstance(part, type):
        raise UsageError(f"{name!r} is not a class")
    for known, kind, base in BASES:
        if known is table and not issubclass(part, imported(base)):
            raise UsageError(f"{name!r} is no {kind}: it does not inherit from {base}")
    for known, kind, members in NEEDED:
        lacking = [member for member in members if not callable(getattr(part, member, None))]
        if known is table and lacking:
            raise UsageError(f"{name!r} is no {kind}: it has no {lacking[0]}")
    return part


def converted(text: str, wanted: Any) -> Any:
    """An option's value. Raises ValueError for text of another type."""
    value = text.split("/") if get_origin(wanted) is tuple else text
    return msgspec.convert(value, wanted, strict=False)


def build(table: Mapping[str, str], spec: str) -> Any:
    """An instance of the part that `spec` names, its options converted to its fields' types.

    Raises UsageError for an unknown name or option, or a value of the wrong type.
    """
    name, options = split_spec(spec)
    part = find(table, name)
    if not is_dataclass(part):
        try:
            return part(**options)
        except TypeError as error:
            raise UsageError(f"{spec}: {error}") from error
    types = get_type_hints(part)
    known = [field.name for field in fields(part) if field.init]
    if "" in options:
        value = options.pop("")
        if not known or types[known[0]] is not str or known[0] in options:
            raise UsageError(f"{spec}: {value!r} is not KEY=VALUE")
        options[known[0]] = value
    for key in options:
        if key not in known:
            raise UsageError(f"{spec}: {name} has no option {key!r}; {nearest(key, known)}")
    try:
        return part(**{name: converted(text, types[name]) for name, text in options.items()})
    except (ValueError, TypeError) as error:  # msgspec.ValidationError is a ValueError
        raise UsageError(f"{spec}: {error}") from error
