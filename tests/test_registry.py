from dataclasses import dataclass

import pytest

from expo_cli import registry
from expo_cli.errors import UsageError
from expo_cli.registry import build, find, nearest, split_label, split_spec

TABLES = {
    name: table
    for name, table in vars(registry).items()
    if name.isupper() and isinstance(table, dict)
}
ENTRIES = [(table, name) for table in TABLES for name in TABLES[table]]


@pytest.mark.parametrize(("table", "name"), ENTRIES)
def test_every_part_is_there(table, name):
    assert isinstance(find(TABLES[table], name), type)


@pytest.mark.parametrize("table", ["OBJECTIVES", "EXPLORERS", "PAIRINGS", "COMBINATIONS"])
def test_every_part_that_needs_no_files_builds_with_its_defaults(table):
    # The path of one, and several values: these two need an option.
    for name in TABLES[table].keys() - {"checkpoint", "mixture"}:
        assert build(TABLES[table], name) == build(TABLES[table], TABLES[table][name])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sft", "pairs"), ("dpo", "pairs"), ("expo", "pairs"), ("kto", "images"), ("spo", "steps")],
)
def test_what_each_objective_learns_from(name, kind):
    assert build(TABLES["OBJECTIVES"], name).learns_from == kind


@pytest.mark.parametrize("name", TABLES["PAIRINGS"])
def test_what_each_pairing_pairs(name):
    expected = "steps" if name.startswith("step-") else "samples"
    assert build(TABLES["PAIRINGS"], name).pairs == expected


@pytest.mark.parametrize("table", TABLES)
def test_a_typo_is_answered_with_the_nearest_name(table):
    for name in TABLES[table]:
        with pytest.raises(UsageError, match=f"did you mean {name!r}"):
            find(TABLES[table], f"{name}x")


@dataclass(frozen=True)
class Part:
    path: str
    beta: float = 1.0
    steps: int = 1
    fast: bool = True
    limit: int | None = None
    scales: tuple[float, ...] = ()

    def __post_init__(self):
        if self.beta < 0:
            raise ValueError("beta must not be negative")


class Plain:
    def __init__(self, radius="1"):
        self.radius = radius


TABLE = {"part": f"{__name__}.Part"}


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("part:path=x", Part("x")),
        ("part:x", Part("x")),
        ("part:x,beta=2", Part("x", beta=2.0)),
        ("part: path = x , beta = 2", Part("x", beta=2.0)),
        ("part:path=x,fast=false", Part("x", fast=False)),
        ("part:path=a=b,limit=3", Part("a=b", limit=3)),
        ("part:a/b,scales=1.5/3", Part("a/b", scales=(1.5, 3.0))),
        ("part:x,scales=2", Part("x", scales=(2.0,))),
        (f"{__name__}.Part:path=x,steps=3", Part("x", steps=3)),
    ],
)
def test_options_become_the_fields_types(spec, part):
    assert build(TABLE, spec) == part


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("prat:x", "did you mean 'part'?"),
        ("zzz", "known: part"),
        ("", "known: part"),
        ("part", "path"),
        ("part:x,bta=1", "no option 'bta'; did you mean 'beta'?"),
        ("part:x,beta=much", "Expected `float`"),
        ("part:x,steps=1.5", "Expected `int`"),
        ("part:x,scales=1/much", "Expected `float`, got `str` - at `$[1]`"),
        ("part:x,scales=1//2", "Expected `float`"),
        ("part:x,beta=-1", "beta must not be negative"),
        ("part:path=x,y", "'y' is not KEY=VALUE"),
        ("no.such.module.Part", "cannot be imported"),
        (f"{__name__}.Prat", "cannot be imported"),
        ("os.path", "is not a class"),
        (".Part", "nothing is called"),
        ("..Part", "nothing is called"),
        (f"{__name__}.Plain:size=2", "size"),
    ],
)
def test_faults(spec, problem):
    with pytest.raises(UsageError) as raised:
        build(TABLE, spec)
    assert problem in str(raised.value)


def test_a_plain_class_takes_its_options_as_text():
    assert build(TABLE, f"{__name__}.Plain:radius=2").radius == "2"


def test_spec_and_label():
    assert split_spec("a:b-c=1,d=2") == ("a", {"b_c": "1", "d": "2"})
    assert split_label("pickscore:model=x") == ("pickscore", "pickscore:model=x")
    assert split_label("mine=pickscore:model=x") == ("mine", "pickscore:model=x")
    assert split_label("lab.rewards.Sharp") == ("Sharp", "lab.rewards.Sharp")
    assert nearest("pickscor", ["pickscore"]) == "did you mean 'pickscore'?"
