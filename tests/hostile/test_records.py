"""JSONL records: every kind, damaged, is what Python's own json reads or the line that is wrong."""

import json
import math
import types
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest

from expo_cli.contracts import jsonl
from expo_cli.contracts.records import (
    Checks,
    EncodedImage,
    ImageEntry,
    Pair,
    Prompt,
    Sample,
    SampleRef,
    Score,
    StepCandidates,
    StepPair,
)
from expo_cli.contracts.results import EvaluatedSample
from expo_cli.errors import ContractError
from tests.hostile.damage import at, changed, every, fault, read_or_fault, values_changed

CHECKS = Checks(
    nan=False,
    black=True,
    saturation=0.25,
    contrast=0.5,
    colorfulness=33.0,
    clipped=0.0,
    edge_energy=0.125,
)
REF = SampleRef(sample_id="p1-main-1-0", part="main/part-00000.safetensors", score=0.5)
STEP = {
    "step_id": "s.1",
    "prompt_id": "p1",
    "prompt": "a cat",
    "negative_prompt": "",
    "iteration": 1,
    "timestep": 999,
    "previous_timestep": 749,
    "guidance_scale": 5.0,
    "eta": 1.0,
    "reward": "pick",
}
EXAMPLES = [
    Prompt(prompt_id="p1", prompt="a caf\u00e9", category="x", num_tokens=3, source="a.txt:1"),
    Sample(
        sample_id="p1-main-1-0",
        prompt_id="p1",
        prompt="a cat",
        category="x",
        agent="main",
        iteration=1,
        index=0,
        seed=7,
        negative_prompt="blurry",
        policy="0" * 8,
        scheduler="ddpm",
        num_inference_steps=50,
        guidance_scale=7.5,
        eta=0.0,
        width=64,
        height=64,
        image="images/a.png",
        kl=1.5,
        kl_steps=(1.0, 0.5),
        checks=CHECKS,
    ),
    ImageEntry(image="a.png", prompt="a cat", prompt_id="p1", sample_id="s1", category="x"),
    Score(sample_id="s1", prompt_id="p1", reward="pick", score=1.0, raw=0.5, scale=2.0),
    Pair(
        pair_id="q1",
        prompt_id="p1",
        prompt="a cat",
        winner=REF,
        loser=REF,
        winner_score=0.5,
        loser_score=0.25,
        margin=0.25,
        reward="pick",
        source="online",
        iteration=1,
        explore=REF,
        main=REF,
    ),
    StepPair(part="a.steps.safetensors", winner_score=1.0, loser_score=0.5, confidence=0.2, **STEP),
    EncodedImage(sample_id="s1", source="a:1: jpg_0", width=4, height=4, problem="no image"),
    StepCandidates(
        sample_id="s1", number=0, scores=(1.0, 0.5, 0.75), winner=0, loser=1, continued=2, **STEP
    ),
    EvaluatedSample(
        label="base",
        sample_id="s1",
        prompt_id="p1",
        prompt="a cat",
        category="x",
        index=0,
        seed=1,
        scores={"pick": 1.0},
        kl=0.5,
        image="images/a.png",
    ),
]
KINDS = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)


class Twice(dict):
    """A JSON object that has a key twice: the last one counts, but all of them must be right."""


def independent(line: bytes, kind: type) -> object:
    """The record of a line by Python's own json. Raises ValueError when it is none."""

    def collected(items: list[tuple[str, object]]) -> dict:
        return (dict if len(dict(items)) == len(items) else Twice)(items)

    def finite(text: str) -> float:
        if not math.isfinite(number := float(text)):
            raise ValueError(text)
        return number

    try:
        value = json.loads(
            line.decode(), parse_constant=finite, parse_float=finite, object_pairs_hook=collected
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    if isinstance(value, Twice):
        return None
    return conforming(value, kind)


def conforming(value: object, kind: Any) -> object:
    """A JSON value as a type hint asks for it. Raises ValueError when it is another one."""
    if is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        for field in fields(kind):
            required = field.default is MISSING and field.default_factory is MISSING
            if required and field.name not in value:
                raise ValueError(f"no {field.name}")
        return kind(**{n: conforming(value[n], hint) for n, hint in hints.items() if n in value})
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(conforming(item, get_args(kind)[0]) for item in value)
    if get_origin(kind) is dict and isinstance(value, dict):
        return {key: conforming(item, get_args(kind)[1]) for key, item in value.items()}
    if get_origin(kind) in (Union, types.UnionType):
        for option in get_args(kind):
            if option is type(None) and value is None:
                return None
            if option is not type(None) and value is not None:
                return conforming(value, option)
    if get_origin(kind) is Literal and value in get_args(kind) and isinstance(value, str):
        return value
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind in (str, int, bool) and type(value) is kind:
        return value
    raise ValueError(f"{value!r} is no {kind}")


def agrees(path: Path, data: bytes, kind: type) -> None:
    """The reader and the independent one find the same records, and the same first bad line."""
    path.write_bytes(data)
    expected, bad_line = [], None
    for number, line in enumerate(data.split(b"\n"), start=1):
        if number > 1 and not line and data.endswith(b"\n") and number > data.count(b"\n"):
            break
        if not data:
            break
        try:
            expected.append(independent(line, kind))
        except (ValueError, OverflowError):
            bad_line = number
            break
    found, refused = [], None
    try:
        found.extend(jsonl.read(path, kind))
    except ContractError as error:
        refused = error
    if refused and None in expected:
        fault(refused, at(path))
        return
    assert (refused is None) == (bad_line is None), refused or f"read {found[-1]!r}"
    if refused:
        fault(refused, at(path, bad_line))
    else:
        assert [record for record, one in zip(found, expected, strict=True) if one] == [
            one for one in expected if one
        ]


@KINDS
def test_every_value_of_every_field(example, tmp_path):
    good = msgspec.json.encode(example) + b"\n"
    every(
        values_changed(json.loads(good)),
        lambda line: agrees(tmp_path / "records.jsonl", good + line + b"\n" + good, type(example)),
    )


@KINDS
def test_damaged_lines_and_bytes(example, tmp_path):
    good = msgspec.json.encode(example) + b"\n"
    every(
        changed(3 * good, count=400),
        lambda data: agrees(tmp_path / "records.jsonl", data, type(example)),
    )


def test_what_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "none.jsonl"):
        assert read_or_fault(lambda path=path: list(jsonl.read(path, Score)), at(path)) is None
