"""The finished iteration that every attack begins with, and what each command makes in a clean one."""

import json
import os
import struct
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.hostile.mixtures.processes import Ended, Started
from tests.hostile.mixtures.steps import ALL, OTHERS, STEPS, Step, build_inputs, stem_of
from tests.hostile.mixtures.trees import Tree, Workplace, below

# What a command made, comparable: by its name below the output.
Result = Mapping[str, Any]
NOTHING, FINISHED = "nothing", "finished"


@dataclass(frozen=True)
class Killed:
    """The state that a command leaves which is killed after this share of its changes."""

    share: float

    def __str__(self) -> str:
        return f"killed after {self.share:.0%} of its changes"


State = str | Killed


class World:
    """`base` holds the output of every step; `others` what other settings make in its place."""

    def __init__(self, folder: Path, patience: float, steps: Sequence[Step] = ALL) -> None:
        # The place has a folder of its own above it, as some attacks name that.
        self.place = Workplace(folder / "above" / "work")
        self.log, self.patience, self.steps = folder / "log", patience, steps
        self.changes: dict[str, int] = {}
        self.states: dict[Hashable, Tree] = {}
        self.cleans: dict[Hashable, Result | None] = {}
        self.others: dict[str, Tree] = {}
        self.build()

    @property
    def root(self) -> Path:
        return self.place.root

    def build(self) -> None:
        self.root.mkdir(parents=True)
        in_a_fork(lambda: build_inputs(self.root))
        for step in self.steps:
            self.changes[step.name] = len(self.must(step).changes)
        self.base = self.place.take()
        built = {step.name for step in self.steps}
        for name in [name for name in OTHERS if name in built]:
            self.place.put(self.nothing(STEPS[name]))
            self.must(STEPS[name].with_flags(OTHERS[name]))
            self.others[name] = self.output(self.place.take(), STEPS[name])
        redrawn = self.nothing(STEPS["main"]) | self.others["main"]
        self.place.put({name: redrawn[name] for name in redrawn.keys() - self.made("scores")})
        for name in ("main-scores", "scores"):
            self.must(STEPS[name])
            self.others[name] = self.output(self.place.take(), STEPS[name])

    def made(self, name: str) -> set[str]:
        return set(self.output(self.base, STEPS[name]))

    def must(self, step: Step) -> Ended:
        ended = self.run(step.arguments)
        assert ended.code == 0, f"expo {' '.join(step.arguments)}: {ended.errors}"
        return ended

    def run(self, arguments: tuple[str, ...], folder: str = ".", **settings: Any) -> Ended:
        return Started(arguments, self.root, self.log, folder, **settings).wait(self.patience)

    def output(self, tree: Tree, step: Step) -> Tree:
        """What a step has made, with everything next to it."""
        names = (step.out, f"{step.out}.run.json", f"{step.stem}.latents", f"{step.out}.lock")
        if step.name == "prompts":
            names += ("run/heldout.jsonl", "run/heldout.jsonl.run.json")
        return {name: entry for place in names for name, entry in below(tree, place).items()}

    def nothing(self, step: Step) -> Tree:
        made = self.output(self.base, step)
        return {name: entry for name, entry in self.base.items() if name not in made}

    def state(self, step: Step, state: State) -> Tree:
        """The base with this output not begun, begun, or finished."""
        if state == FINISHED:
            return self.base
        if state == NOTHING:
            return self.nothing(step)
        if (step.name, state) not in self.states:
            self.place.put(self.nothing(step))
            moment = 1 + int(state.share * self.changes[step.name])
            self.run(step.arguments, signal_at=(9, moment))
            self.states[step.name, state] = self.place.take()
        return self.states[step.name, state]

    def clean(self, key: Hashable, make: Callable[[], bool], step: Step) -> Result | None:
        """What a step makes if nothing is in its way, None if it is refused.

        `make` prepares a folder, and returns whether everything before the step could be made in it.
        """
        if key not in self.cleans:
            ended = self.run(step.arguments) if make() else None
            done = ended is not None and ended.code == 0
            self.cleans[key] = result(self.place.take(), step, step.out) if done else None
        return self.cleans[key]


def in_a_fork(work: Callable[[], None]) -> None:
    """Threads that it starts are no part of this process."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def result(tree: Tree, step: Step, out: str) -> Result:
    """What a step is run for, found at `out`."""
    found, stem = {}, stem_of(out)
    for name, entry in tree.items():
        inner = name.removeprefix(stem)
        if name.startswith(stem) and entry.kind == "file" and step.is_result(step.stem + inner):
            found[inner] = content(name, entry.content)
    return found


def content(name: str, data: bytes) -> Any:
    try:
        if name.endswith(".safetensors"):
            return tensors(data)
        if name.endswith(".jsonl"):
            return [without_places(json.loads(line)) for line in data.splitlines()]
        if name.endswith(".json"):
            return without_places(json.loads(data))
    except (ValueError, KeyError, struct.error):
        return "broken"
    return sha256(data).hexdigest()


def tensors(data: bytes) -> dict[str, Any]:
    """Types, shapes and digests; what else the header says, such as of where it was made, is free."""
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    body = memoryview(data)[8 + size :]
    return {
        name: (each["dtype"], each["shape"], sha256(body[slice(*each["data_offsets"])]).hexdigest())
        for name, each in header.items()
    }


def without_places(record: Any) -> Any:
    """A record as it is wherever the file that its prompt came from, or a rollout, is."""
    if isinstance(record, list):
        return [without_places(each) for each in record]
    if not isinstance(record, dict):
        return record
    kept = {key: without_places(value) for key, value in record.items() if key != "folder"}
    if isinstance(kept.get("source"), str):
        kept["source"] = kept["source"].rpartition(":")[2]
    return kept
