"""What came of an attack, and whether that is mishandled: told by the files, streams and codes."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from tests.hostile.mixtures.attacks import REFUSED, WORKS, Attack, Call
from tests.hostile.mixtures.changes import AGAIN, BEFORE, NOW
from tests.hostile.mixtures.processes import SILENT, Ended, Started
from tests.hostile.mixtures.steps import STEPS, Step
from tests.hostile.mixtures.trees import Tree
from tests.hostile.mixtures.world import Result, World, result

CODES = (0, 1, 2, 75, 130)
# Mixtures in which the output may lie among files that have nothing to do with it.
BESIDE_OTHERS = ("output is input", "foreign output")


def mishandled(world: World, attack: Attack) -> tuple[list[str], list[Ended]]:
    """Runs the attack; what is wrong with what came of it, one reason each."""
    world.place.put(world.state(attack.step, attack.state))
    attack.change.apply(world.root)
    before = world.place.take()
    ends = execute(world, attack)
    world.root.mkdir(parents=True, exist_ok=True)
    after = world.place.take()
    own = own_files(world, attack, before)
    wrong = [reason for ended in ends for reason in ill_ended(ended)]
    wrong += files_lost(before, after, own)
    if all(ended.code in (1, 2) for ended in ends):
        wrong += files_left(attack, before, after)
    wrong += not_as_it_must(attack, ends)
    for step, ended in zip(attack.truths, ends, strict=False):
        if ended.code == 0:
            wanted = clean(world, attack, step)
            counted = after
            if attack.kind in BESIDE_OTHERS:
                counted = {name: each for name, each in after.items() if before.get(name) != each}
            found = result(counted, attack.step, attack.out or attack.step.out)
            wrong += different(wanted, found, attack.partly)
    return list(dict.fromkeys(wrong)), ends


def execute(world: World, attack: Attack) -> list[Ended]:
    first = attack.calls[0]
    if first.shell:
        return [in_bash(world, first)]
    started = Started(
        first.arguments,
        world.root,
        world.log,
        first.folder,
        (signal.SIGSTOP, first.moment) if first.moment else (0, 0),
    )
    if len(attack.calls) == 1:
        return [started.wait(world.patience, limit=attack.limit)]
    second = attack.calls[1]
    ended = started.wait(world.patience, stopped=True)
    other = Started(second.arguments, world.root, world.log.with_name("second"), second.folder)
    if ended is None:
        # The second may wait for the first.
        ends = other.wait(world.patience, limit=5)
        started.go_on()
        return [started.wait(world.patience), ends]
    return [ended, other.wait(world.patience)]


def in_bash(world: World, call: Call) -> Ended:
    """As a user types it, for streams that only a process begun anew has."""
    script = f'expo() {{ "{sys.executable}" -m expo_cli "$@"; }}; set -o pipefail; {call.shell}'
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # A session of its own, so that nothing of it outlives its end.
    with subprocess.Popen(
        ["bash", "-c", script],
        cwd=world.root / call.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            streams = process.communicate(timeout=world.patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return Ended(SILENT, "", "", ())
    code = process.returncode
    output, errors = (each.decode(errors="replace") for each in streams)
    return Ended(code, output, errors, ())


def ill_ended(ended: Ended) -> list[str]:
    wrong = []
    if ended.code == SILENT:
        wrong.append("silent: had to be killed")
    elif ended.code not in CODES:
        wrong.append(f"exit code {ended.code}")
    if "Traceback (most recent call last)" in ended.errors + ended.output:
        wrong.append(f"traceback: {ended.errors.strip().splitlines()[-1][:150]}")
    return wrong


def own_files(world: World, attack: Attack, before: Tree) -> set[str]:
    """What was there of the command's own making."""
    if not attack.own:
        return set()
    theirs = world.nothing(attack.step)
    old, new = attack.prefix
    names = {
        f"{new}{name.removeprefix(old)}" if old and name.startswith(f"{old}/") else name
        for name in theirs
    }
    return {name for name in before if name not in names and name.startswith(("run/", "moved/"))}


def files_lost(before: Tree, after: Tree, own: set[str]) -> list[str]:
    """Files that were there, and are gone or changed, without those of the command's own and what
    a run that was killed left half made."""
    own = own | {name for name in before if passing(name)}
    lost = [name for name in before if name not in own and name not in after]
    changed = [
        name
        for name in before.keys() & after.keys()
        if name not in own
        if before[name] != after[name]
    ]
    return [f"gone: {few(lost)}"] * bool(lost) + [f"changed: {few(changed)}"] * bool(changed)


def files_left(attack: Attack, before: Tree, after: Tree) -> list[str]:
    """Traces of a command that was refused. One that meets damaged data, or numbers that lead to
    none, may have begun before; one that cannot say what it did has done it."""
    names = {
        name
        for name in before.keys() | after.keys()
        if before.get(name) != after.get(name) and not passing(name)
    }
    if attack.kind == "streams" and attack.must != REFUSED:
        return []
    if attack.kind in ("cut", "numbers", "streams"):
        names &= before.keys()
    names = {name for name in names if (after.get(name) or before[name]).kind != "folder"}
    return [f"refused, but wrote: {few(names)}"] if names else []


def passing(name: str) -> bool:
    return name.endswith(".lock") or ".partial" in name


def not_as_it_must(attack: Attack, ends: Sequence[Ended]) -> list[str]:
    code = ends[0].code
    if attack.must == WORKS and code != 0:
        return [f"refused the same: exit code {code}"]
    if attack.must == REFUSED and code not in (1, 2):
        return [f"not refused: exit code {code}"]
    if isinstance(attack.must, int) and code != attack.must:
        return [f"wrong status: exit code {code}, not {attack.must}"]
    return []


def clean(world: World, attack: Attack, step: Step) -> Result | None:
    """What the step makes of the attack's inputs in a folder where nothing else was done."""
    truth, change = attack.change.truth, attack.change

    def make() -> bool:
        world.place.put(world.nothing(attack.step))
        if truth in (NOW, AGAIN):
            change.apply(world.root)
        if truth == AGAIN:
            return all(make_again(world, name) for name in attack.through)
        return True

    base = world.root.joinpath()
    inputs = change.name if truth != BEFORE else ""
    return world.clean((step.name, step.line, inputs, attack.through, str(base)), make, step)


def make_again(world: World, name: str) -> bool:
    step = STEPS[name]
    tree = world.place.take()
    made = world.output(tree, step)
    world.place.put({path: entry for path, entry in tree.items() if path not in made})
    return world.run(step.arguments).code == 0


def different(wanted: Result | None, found: Result, partly: bool) -> list[str]:
    if wanted is None:
        return ["wrong result: a clean folder is refused"]
    missing = [] if partly else sorted(wanted.keys() - found.keys())
    extra = sorted(found.keys() - wanted.keys())
    other = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    return (
        [f"wrong result: without {few(missing)}"] * bool(missing)
        + [f"wrong result: {few(extra)} of another run"] * bool(extra)
        + [f"wrong result: another {few(other)}"] * bool(other)
    )


def few(names: Sequence[str] | set[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
