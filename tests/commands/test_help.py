"""Help texts: short, one sentence style, in plain English."""

import inspect
import os
import re

import pytest

from expo_cli.main import app

# They list what a flag takes, which is nowhere else on the command line.
LISTS = {
    ("rollout", "explorer"),
    ("score", "reward"),
    ("make-pairs", "pairing"),
    ("make-pairs", "combine"),
    ("make-pairs", "layout"),
    ("make-pairs", "export"),
}
LONGEST = 120
ADDED = re.compile(r" (\[required\]|\[dim\]\[default: .*\]\[/dim\])$")
# "images a prompt" for "images per prompt".
A_FOR_PER = re.compile(
    r"\b(one \w+|\w+s) an? (batch|candidate|file|image|line|pair|part|process|prompt|sample|step)\b"
)


def help_texts() -> list[tuple[str, str, str]]:
    """(command, parameter, text) of everything that `expo COMMAND --help` lists."""
    return [
        (command.name, name, parameter.annotation.__metadata__[0].help)
        for command in app.registered_commands
        for name, parameter in inspect.signature(command.callback).parameters.items()
    ]


@pytest.mark.parametrize(("command", "name", "text"), help_texts())
def test_a_help_text_is_short_and_ends_in_a_full_stop(command, name, text):
    text = ADDED.sub("", text.replace("\\[", "["))
    assert (len(text) > LONGEST) == ((command, name) in LISTS)
    assert text.endswith(".")
    assert not text.endswith("..")
    assert not A_FOR_PER.search(text)


def test_required_flags_are_marked(expo):
    done = expo("train", "--help", env=os.environ | {"COLUMNS": "200"})
    marked = [line for line in done.stdout.splitlines() if "[required]" in line]
    assert len(marked) == 3
    for name, line in zip(("pairs", "--out", "--init-from"), marked, strict=True):
        assert name in line


def test_defaults_are_shown(expo):
    done = expo("evaluate", "--help", env=os.environ | {"COLUMNS": "200"})
    assert "Number of bootstrap resamples of the prompts. [default: 2000]" in done.stdout


def test_a_for_per_is_found():
    for text in ("Images a prompt.", "One pair a prompt.", "Draws images a process at a time."):
        assert A_FOR_PER.search(text.lower())
    assert not A_FOR_PER.search("Images per prompt. Keep the best of a prompt.")
