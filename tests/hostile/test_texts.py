"""Texts that would be markup, scripts or commands to a terminal: inert in every report and line."""

import io
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from expo_cli.config import EvaluateConfig, RunOptions, StatusConfig
from expo_cli.contracts import jsonl
from expo_cli.contracts.provenance import Run, write_run
from expo_cli.contracts.records import Sample
from expo_cli.contracts.shards import part_path
from expo_cli.errors import UsageError
from expo_cli.stages.common.progress import Notes
from expo_cli.stages.evaluate import run as evaluate
from expo_cli.stages.evaluate.run import evaluate_policies
from expo_cli.stages.status import read_status
from tests.scored import write_scored

MARKUP = [
    "<script>document.title='owned'</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg/onload=alert(1)>",
    "</title></style></script><script>alert(1)</script>",
    "{{ 7 * 7 }}{% for x in y %}{# #}",
    "<!-- --><![CDATA[ x ]]>",
    "javascript:alert(1)",
    "&lt;script&gt; &#60;script&#62; &amp",
    "<a href='//evil.example'>x</a><iframe src=//evil.example></iframe><base href=//evil.example>",
    "\x00<b>\x1b]0;owned\x07\r\x1b[2K\u202egnp.x\u2028</bdi><bdi>",
    "$\\frac{1}{0}$ \\input{/etc/passwd} $",
    "=cmd|' /C calc'!A0",
    "\U0001f600\u5b57\u0645\u0301" * 50,
    "x" * 50_000,
]
TERMINAL = [
    "\x1b]0;owned\x07",
    "\x1b[2J\x1b[1;1H",
    "\r\x1b[2Kexpo: all is well",
    "\x9b2J",
    "\x08\x08\x08",
    "\x7f\x00\x0b\x0c",
    "\u202eexe.png",
    "[bold red]x[/bold red][link=file:///etc/passwd]y[/link]",
    "[/]",
    ":smile: \\[x]",
    "a\nb\u2028c\u2029d\x85e",
]


class Outline(HTMLParser):
    """Every element of a page with its attributes, in order; the texts apart."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.values: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.values += [(tag, name, value or "") for name, value in attrs]

    def handle_decl(self, decl) -> None:
        self.elements.append((f"!{decl}", ()))

    def handle_comment(self, data) -> None:
        self.elements.append(("!--", ()))

    def handle_pi(self, data) -> None:
        self.elements.append(("?", ()))

    def handle_data(self, data) -> None:
        self.texts.append(data)


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The report of two policies whose prompts, categories and title are the given texts."""
    monkeypatch.setattr(evaluate, "draw_plots", lambda results: {"reward-by-policy": {"svg": b""}})
    count = 2 * len(MARKUP)
    for label in ("base", "other"):
        sign = 1 if label == "base" else -1
        rewards = {"r": lambda folder, n, i, sign=sign: sign * n + i}
        write_scored(
            tmp_path / label, rewards=rewards, num_prompts=count, images=True, num_images=1
        )

    def render(texts: list[str], title: str) -> str:
        for label in ("base", "other"):
            path = part_path(tmp_path / label, 0)
            samples = [
                replace(
                    sample,
                    prompt=texts[number % len(texts)],
                    category=f"{texts[number % len(texts)]} {number % len(texts)}",
                    negative_prompt=texts[0],
                    scheduler=texts[1],
                )
                for number, sample in enumerate(jsonl.read(path, Sample))
            ]
            jsonl.write(path, samples)
        config = EvaluateConfig(num_bootstrap=9, num_grid_prompts=count, title=title)
        policies = [f"{label}={tmp_path / label}" for label in ("base", "other")]
        evaluate_policies(policies, tmp_path / "out", config, RunOptions(quiet=True))
        return (tmp_path / "out/report.html").read_text(encoding="utf-8")

    return render


def test_a_report_has_no_element_of_a_prompt(page):
    """Its elements and attributes are those of the same report of plain words."""
    plain = Outline(page([f"words {number:02d}" for number in range(len(MARKUP))], "title"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hostile_page = page(MARKUP, MARKUP[3])
    hostile = Outline(hostile_page)
    assert hostile.elements == plain.elements
    assert not {tag for tag, _ in hostile.elements} & {"script", "iframe", "base", "link", "object"}
    assert not [name for _, name, _ in hostile.values if name.startswith("on")]
    for tag, name, value in hostile.values:
        assert name not in ("href", "action", "formaction", "srcdoc", "xlink:href"), (tag, value)
        if name == "src":
            assert value.startswith("data:image/")
        if name in ("style", "class"):
            assert (tag, name, value) in plain.values
    shown = "".join(hostile.texts)
    for text in MARKUP:
        if text.isprintable():
            assert text in shown
    assert not [c for c in hostile_page if ord(c) < 32 and c != "\n"]
    assert "default-src 'none'" in hostile_page


def test_a_report_refers_to_nothing_outside(page):
    text = page(MARKUP, "t")
    assert [
        value for _, name, value in Outline(text).values if "://" in value and name != "title"
    ] == []


def is_inert(text: str) -> bool:
    return text.replace("\n", "").isprintable()


@pytest.mark.parametrize("text", TERMINAL)
def test_notes_command_no_terminal(text):
    notes = Notes(RunOptions())
    screen = io.StringIO()
    notes.console = Console(file=screen, force_terminal=True, highlight=False, soft_wrap=True)
    notes.say(f"train: {text}")
    shown = screen.getvalue()
    assert is_inert(shown)
    assert shown.count("\n") == 1
    assert text not in shown or text.isprintable()
    assert not text.isprintable() or text in shown


@pytest.mark.parametrize("text", TERMINAL)
def test_status_commands_no_terminal(text, tmp_path):
    plan = {"num_prompts": text, "drawn_by": text, "num_parts": 3}
    arguments = ["rollout", text, "--out", f"x; rm -rf {text}"]
    write_run(tmp_path, Run(command="rollout", plan=plan, arguments=arguments))
    shown = read_status([tmp_path]).text(StatusConfig())
    assert is_inert(shown)
    assert len(shown.splitlines()) == 3
    assert "; rm" not in shown.replace("'x; rm", "")


@pytest.mark.parametrize("label", [*TERMINAL, *MARKUP[:4], "../x", "a/b", ""])
def test_labels_are_plain_words(label, tmp_path):
    with pytest.raises(UsageError):
        evaluate_policies([f"{label}=x"], tmp_path, EvaluateConfig(), RunOptions())


def test_a_folder_may_be_called_anything(tmp_path, monkeypatch):
    """Its name is in the report, and in the notes."""
    monkeypatch.setattr(evaluate, "draw_plots", lambda results: {"reward-by-policy": {"svg": b""}})
    folder = tmp_path / "<img src=x onerror=alert(1)>[bold]\x1b[2J"
    write_scored(folder, rewards={"r": lambda f, n, i: n}, num_prompts=2)
    out = tmp_path / "out"
    evaluate_policies([f"a={folder}"], out, EvaluateConfig(num_bootstrap=9), RunOptions(quiet=True))
    page = Outline((out / "report.html").read_text())
    assert "img" not in {tag for tag, names in page.elements if "onerror" in names}
    assert Path(out, "results.json").read_bytes().count(b"\x1b") == 0
