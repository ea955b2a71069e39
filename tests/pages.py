"""The project's Markdown pages, and the code in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PAGES = [
    page
    for pattern in (
        "README.md",
        "expo_cli/**/README.md",
        "recipes/**/README.md",
        "tests/**/README.md",
    )
    for page in sorted(PROJECT.glob(pattern))
]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def blocks(text: str, language: str) -> list[str]:
    return [body for _, name, body in FENCE.findall(text) if name == language]


def words_of(text: str) -> str:
    """The page without its blocks of code."""
    return FENCE.sub("", text)


def links(text: str) -> list[str]:
    """Targets inside the project."""
    return [target for target in LINK.findall(words_of(text)) if "://" not in target]


def anchors(text: str) -> set[str]:
    """The headings as GitHub links to them."""
    headings = HEADING.findall(words_of(text))
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def code(text: str) -> Iterator[str]:
    """Every line of bash, and every piece of code in the words."""
    for block in blocks(text, "bash"):
        yield from block.replace("\\\n", " ").splitlines()
    yield from SPAN.findall(words_of(text))


def commands(text: str) -> Iterator[list[str]]:
    """Each single command in the page's code, as its words."""
    for line in code(text):
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();|&")
        lexer.whitespace_split = True
        try:
            tokens = list(lexer)
        except ValueError:  # a piece of a command, with half of its quotation marks
            tokens = line.split()
        command: list[str] = []
        for token in [*tokens, ";"]:
            if token and set(token) <= set("();|&"):
                yield command
                command = []
            else:
                command.append(token)
