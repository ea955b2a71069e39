"""One module knows what an output's files are, whether they are there, and how they go away."""

import ast
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
# The mechanics, the kinds, and their foundations.
KNOWING = {
    f"expo_cli/contracts/{name}.py"
    for name in ("outputs", "kinds", "provenance", "files", "states", "shards", "sources")
}
MODULES = sorted(
    path.relative_to(PROJECT).as_posix() for path in (PROJECT / "expo_cli").rglob("*.py")
)
SCRIPTS = sorted(
    path.relative_to(PROJECT).as_posix()
    for path in (PROJECT / "recipes").rglob("*")
    if path.suffix in (".sh", ".sbatch")
)
# Names of files by which one could tell that something is begun, unfinished, finished.
TELLING = re.compile(
    r".*run\.json|.*\.partial|part-.*|model_index\.json|adapter_config\.json|.*\.lock"
)
REMOVING = {"rmtree", "unlink", "rmdir", "removedirs", "rename", "renames"}
ASKING = {"exists", "is_file", "is_dir", "glob", "rglob", "iterdir", "stat"}
# Functions that name an output's files.
PLACES = re.compile(
    r"(part|score|steps|step_tensors|latents|embeddings|run)_path|states?_folder|saved_steps|run_path_of"
)


def others():
    return [name for name in MODULES if name not in KNOWING]


def docstrings(tree):
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            yield body[0].value


def names_within(node):
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            yield inner.id
        if isinstance(inner, ast.Attribute):
            yield inner.attr


@pytest.mark.parametrize("name", others())
def test_no_other_module_names_the_files_that_tell(name):
    tree = ast.parse((PROJECT / name).read_text())
    said = set(map(id, docstrings(tree)))
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said
    ]
    assert [text for text in texts if TELLING.fullmatch(text)] == []


@pytest.mark.parametrize("name", others())
def test_no_other_module_removes_anything_or_asks_for_an_output_s_files(name):
    tree = ast.parse((PROJECT / name).read_text())
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    assert [call.func.attr for call in calls if call.func.attr in REMOVING] == []
    asked = [
        ast.unparse(call)
        for call in calls
        if call.func.attr in ASKING and any(map(PLACES.fullmatch, names_within(call.func.value)))
    ]
    assert asked == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_recipes_ask_expo_status(name):
    lines = (PROJECT / name).read_text().splitlines()
    code = [line for line in lines if not line.lstrip().startswith("#")]
    telling = re.compile(r"run\.json|\.partial|part-\d|model_index|adapter_config")
    assert [line for line in code if telling.search(line)] == []


def test_the_test_sees_what_it_looks_for(tmp_path):
    """The module that knows does all of it."""
    tree = ast.parse((PROJECT / "expo_cli/contracts/outputs.py").read_text())
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert attributes >= {"unlink", "rmtree", "rename", "exists"}
