import os
import re
import signal
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expo_cli import __version__, config
from expo_cli.main import app, one_line

COMMANDS = ["prep-prompts", "rollout", "score", "make-pairs", "train", "evaluate", "status", "env"]
HEAVY = ["torch", "numpy", "diffusers", "transformers", "accelerate", "open_clip", "PIL", "pyarrow"]
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def configs_of(command: str) -> list[type]:
    own = getattr(config, command.title().replace("-", "") + "Config")
    if command in ("status", "env"):
        return [own]
    images = [config.PairImagesConfig] if command == "make-pairs" else []
    return [own, config.RunOptions, *images]


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_loads_nothing_heavy(arguments):
    code = (
        "import sys\n"
        "from expo_cli.main import main\n"
        f"sys.argv = ['expo', *{arguments}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        f"    print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)\n"
        "    raise\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_a_signal_while_no_stage_listens_says_run_again(name):
    code = (
        "import os, signal\n"
        "from expo_cli import main\n"
        f"main.app = lambda **_: os.kill(os.getpid(), signal.{name})\n"
        "main.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    message = f"expo: stopped by {name}; run the same command to continue\n"
    assert (done.returncode, done.stderr) == (75, message)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help(command, expo):
    done = expo(command, "--help", env=os.environ | {"COLUMNS": "200"})
    text = ANSI.sub("", done.stdout)
    assert done.returncode == 0
    assert f"Example: expo {command} " in text
    names = {field.name for cls in configs_of(command) for field in fields(cls)}
    for name in names | {"config"}:
        assert f"--{name.replace('_', '-')}" in text
    for panel in ("Running", *(["Arguments"] if command != "env" else [])):
        assert f" {panel} " in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_example_parses(command, expo, tmp_path):
    """Where nothing is, an example fails for want of its files, not of its flags."""
    [info] = [i for i in app.registered_commands if i.name == command]
    [example] = re.findall(r"Example: expo (.*)", info.callback.__doc__)
    plan_only = ["--dry-run"] if config.RunOptions in configs_of(command) else []
    done = expo(*example.split(), *plan_only, cwd=tmp_path)
    assert done.returncode in (0, 1, 75), done.stderr


def test_version_and_module():
    done = subprocess.run(
        [sys.executable, "-m", "expo_cli", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"expo {__version__}\n")


def test_expo_alone_shows_its_help(expo):
    done = expo()
    assert done.returncode == 2
    assert "make-pairs" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["rolout"], 2, "No such command 'rolout'. Did you mean"),
        (["train", "p", "--lr", "1"], 2, "No such option: --lr"),
        (["train"], 2, "Missing argument"),
        (["rollout", "p", "--out", "o", "--images", "gif"], 2, "'gif' is not one of"),
        (["status"], 2, "Missing argument"),
        (["prep-prompts", "none.txt", "--out", "o"], 1, "none.txt: cannot be read: No such file"),
        (["train", "p", "--out", "o", "--config", "none.toml"], 1, "none.toml: cannot be read"),
        (["prep-prompts", "\x1b[2Jred.doc", "--out", "o"], 2, r"\x1b[2Jred.doc: "),
        (["prep-prompts", "a\nb.doc", "--out", "o"], 2, "a b.doc: "),
        (["prep-prompts", b"\xff.doc", "--out", "o"], 2, r"\udcff.doc: "),
    ],
)
def test_an_error_is_one_line(arguments, code, message, tmp_path):
    expo = Path(sys.executable).parent / "expo"
    done = subprocess.run([expo, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("expo: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.strip().isprintable()


@given(st.text())
def test_a_message_cannot_command_the_terminal(text):
    assert one_line(text).isprintable()


def test_interrupting_ends_with_130(tmp_path):
    expo = Path(sys.executable).parent / "expo"
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    child = subprocess.Popen(
        [expo, "prep-prompts", pipe, "--out", tmp_path / "out"],
        stderr=subprocess.PIPE,
        text=True,
        # A job in the background of a script is started with the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with pipe.open("w"):  # returns once the command reads
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=300)[1] == (
            "expo: interrupted; run the same command again to continue\n"
        )
    assert child.returncode == 130


def test_a_reader_that_leaves_is_no_traceback(tmp_path):
    """`expo ... --out - | head -1`, with more than a pipe holds."""
    expo = Path(sys.executable).parent / "expo"
    source = tmp_path / "in.txt"
    source.write_text("".join(f"a photo of cat number {number}\n" for number in range(5000)))
    child = subprocess.Popen(
        [expo, "prep-prompts", source, "--out", "-", "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    child.stdout.readline()
    child.stdout.close()
    assert b"Traceback" not in child.stderr.read()
    child.stderr.close()
    assert child.wait(timeout=300) == 1


def test_commands_and_dependencies_in_the_project_file():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"expo": "expo_cli.__main__:main"}
    assert [info.name for info in app.registered_commands if not info.hidden] == COMMANDS
