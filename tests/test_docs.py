"""What the pages say, held to the code: links, commands, flags, parts, files and figures."""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
import typer

from expo_cli import registry
from expo_cli.main import app
from tests.pages import PAGES, PROJECT, anchors, blocks, commands, links

README = PROJECT / "README.md"
RESULTS = PROJECT / "recipes" / "results"
FINDINGS = PROJECT / "recipes" / "table1" / "findings.md"
COMMANDS = typer.main.get_command(app).commands
FLAGS = {
    name: {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    for name, command in COMMANDS.items()
}
FLAG = re.compile(r"--[a-z][a-z0-9-]*")
OURS = re.compile(r"(?:\./)?((?:expo_cli|recipes|tests|\.ci)/[\w./-]*|[\w-]+\.(?:py|sh|sbatch))")
# Which table a flag's part is in.
PARTS = {
    "--objective": registry.OBJECTIVES,
    "--explorer": registry.EXPLORERS,
    "--pairing": registry.PAIRINGS,
    "--combine": registry.COMBINATIONS,
}
FIGURE = re.compile(r"[+−]\d[\d.]* \[[+−][\d.]+, [+−][\d.]+\]")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def of_expo(page: Path) -> Iterator[list[str]]:
    """The page's command lines of `expo`, from the command's name on, `expo` said or not."""
    for words in commands(read(page)):
        if "expo" in words[:-1]:
            words = words[words.index("expo") + 1 :]
        elif len(words) < 2 or words[0] not in COMMANDS or not words[1].startswith("--"):
            continue
        if words[0] != "COMMAND":
            yield words


def of_tests(page: Path) -> Iterator[list[str]]:
    """The page's command lines of modules of the tests, `python -m` said or not."""
    for words in commands(read(page)):
        words = words[2:] if words[:2] == ["python", "-m"] else words
        if words and words[0].startswith("tests.") and not words[0].endswith(".NAME"):
            yield words


def flags(words: list[str]) -> set[str]:
    """`[--name VALUE]` and `--name=VALUE` are flags too."""
    return {found[0] for word in words if (found := FLAG.match(word.lstrip("[")))}


def test_all_pages_are_looked_at():
    assert README in PAGES
    assert len(PAGES) > 12
    assert sum(1 for page in PAGES for _ in of_expo(page)) > 50


@every_page
def test_links_lead_somewhere(page):
    for link in links(read(page)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(read(target)), link


@every_page
def test_commands_exist_and_have_their_flags(page):
    for command, *words in of_expo(page):
        assert command in COMMANDS, command
        assert flags(words) <= FLAGS[command] | {"--help"}, words


@every_page
def test_flags_alone_are_those_of_some_command(page):
    known = set(chain.from_iterable(FLAGS.values()))
    for words in commands(read(page)):
        if words and words[0].startswith("--"):
            assert flags(words) <= known | {"--help"}, words


@every_page
def test_parts_have_their_options(page):
    for _, *words in of_expo(page):
        for flag, spec in zip(words, words[1:], strict=False):
            if flag in PARTS and "$" not in spec and not spec.startswith("my_lab."):
                registry.build(PARTS[flag], spec)


@every_page
def test_files_of_ours_exist(page):
    """Seen from the project or from the page's folder; names of files alone, from anywhere."""
    for words in commands(read(page)):
        for word in words:
            path = OURS.fullmatch(word)
            if not path or "NAME" in word:
                continue
            places = [PROJECT / path[1], page.parent / path[1]]
            assert any(map(Path.exists, places)) or anywhere(path[1]), word


def anywhere(name: str) -> bool:
    folders = ("expo_cli", "recipes", "tests")
    return "/" not in name and any(any((PROJECT / f).rglob(name)) for f in folders)


@every_page
def test_modules_of_the_tests_exist_and_have_their_flags(page):
    for name, *words in of_tests(page):
        module = PROJECT / name.replace(".", "/")
        source = read(module / "__main__.py" if module.is_dir() else module.with_suffix(".py"))
        assert [flag for flag in flags(words) if f'"{flag}"' not in source] == [], words


def test_the_readme_is_short():
    lines = read(README).splitlines()
    assert len(lines) <= 200
    assert [line for line in lines if len(line) > 120] == []
    assert len(read(README).split()) <= 2000


def test_the_readme_names_all_commands():
    assert {command for command, *_ in of_expo(README)} == set(COMMANDS)


def test_the_readme_says_what_a_part_must_have():
    table = read(README).split("## Your own parts")[1].split("\n## ")[0]
    rows = [row.split("|")[2] for row in table.splitlines() if row.startswith("|")]
    said = {frozenset(re.findall(r"`(\w+)`", row)) for row in rows}
    bases = [registry.imported(path) for _, _, path in registry.BASES]
    needed = [{base.__name__, *getattr(base, "__abstractmethods__", ())} for base in bases]
    needed += [members for _, _, members in registry.NEEDED]
    assert set(map(frozenset, needed)) <= said


def test_the_readme_shows_all_folders_of_the_package():
    [tree] = blocks(read(README), "text")
    shown = dict(re.findall(r"^  (\w+)(/|\.py) ", tree, re.MULTILINE))
    package = PROJECT / "expo_cli"
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    assert folders == {name for name, ending in shown.items() if ending == "/"}
    assert all(
        (package / f"{name}.py").exists() for name, ending in shown.items() if ending == ".py"
    )


def lines_of(page: Path, *, tables: bool) -> str:
    """The rows of its tables, or all other lines."""
    return "\n".join(line for line in read(page).splitlines() if line.startswith("|") == tables)


@pytest.mark.parametrize("page", [README, FINDINGS], ids=["README.md", "findings.md"])
def test_differences_in_words_are_those_of_the_saved_tables(page):
    """Quoted with their interval, to the digits of the table."""
    saved = FIGURE.findall(lines_of(RESULTS / "table1" / "README.md", tables=True))
    quoted = FIGURE.findall(lines_of(page, tables=False))
    assert len(quoted) > 2
    assert [figure for figure in quoted if figure not in saved] == []
