"""Every attack: a command, what was done before it, and what may come of it."""

import json
import os
import random
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.hostile.mixtures.changes import BEFORE, NOW, Change, changes_of, in_json
from tests.hostile.mixtures.steps import STEPS, Step
from tests.hostile.mixtures.trees import remove
from tests.hostile.mixtures.world import FINISHED, NOTHING, Killed, State, World

STATES: tuple[State, ...] = (NOTHING, Killed(0.3), Killed(0.6), FINISHED)
UNCHANGED = Change("", "", lambda root: None, BEFORE)
REFUSED = "refused"
WORKS = "work"


@dataclass(frozen=True)
class Call:
    """A command line in a folder. Of two, the `first` is halted before its `moment`-th change until
    the other has ended. `shell` is a line for bash that may call `expo`."""

    arguments: tuple[str, ...] = ()
    folder: str = "."
    shell: str = ""
    moment: int = 0

    def __str__(self) -> str:
        line = self.shell or shlex.join(("expo", *self.arguments))
        return line if self.folder == "." else f"cd {self.folder} && {line}"


@dataclass(frozen=True)
class Attack:
    """`truth` is the step whose clean result counts, and how it is made; `out` is where the result
    is found. `own`: the command may change what it made itself. `must` is what it has to do: work,
    be refused, or end with an exit code."""

    kind: str
    step: Step
    state: State
    change: Change
    calls: tuple[Call, ...]
    truths: tuple[Step, ...] = ()
    out: str = ""
    own: bool = True
    through: tuple[str, ...] = ()
    must: str | int = ""
    partly: bool = False
    limit: float = 1e9
    prefix: tuple[str, str] = ("", "")

    def __str__(self) -> str:
        before = f"{self.step.name} {self.state}"
        done = f", {self.change.name}" if self.change.name else ""
        return f"{before}{done}: {'; '.join(map(str, self.calls))}"


def with_out(step: Step, out: str) -> tuple[str, ...]:
    """The arguments of a step with another output."""
    if step.own_out:
        return (*step.arguments, "--out", out)
    return (*step.arguments[:-1], out)


def respelled(step: Step, spell: Callable[[str], str], places: Sequence[str]) -> tuple[str, ...]:
    """The arguments with each of the places spelled otherwise."""
    arguments = []
    for argument in step.arguments:
        head, equals, tail = argument.rpartition("=")
        arguments.append(head + equals + spell(tail) if tail in places else argument)
    return tuple(arguments)


def all_attacks(world: World) -> list[Attack]:
    generators = (
        replacements,
        moves,
        spellings,
        settings,
        outputs_that_are_inputs,
        foreign_outputs,
        odd_outputs,
        adoptions,
        two_workers,
        older_versions,
        incompatible,
        numbers,
        streams,
        statuses,
    )
    return [attack for generate in generators for attack in generate(world)]


def replacements(world: World) -> Iterator[Attack]:
    """An input changed before the command, which was not begun, stopped, or finished."""
    for step in world.steps:
        for given in step.inputs:
            for change in changes_of(world, given):
                for state in STATES:
                    # There is nothing to mix.
                    if state == NOTHING and change.truth == NOW:
                        continue
                    for flag in ((), ("--overwrite",)) if state == FINISHED else ((),):
                        yield Attack(
                            change.kind,
                            step,
                            state,
                            change,
                            (Call((*step.arguments, *flag)),),
                            (step,),
                            through=given.through,
                            must=change.must,
                        )


def moves(world: World) -> Iterator[Attack]:
    """All that expo made is renamed or copied; or a model is."""
    for step in world.steps:
        for how, move in (("renamed", os.rename), ("copied", shutil.copytree)):
            change = Change("moved", f"run {how} to moved", moving(move, "run", "moved"), BEFORE)
            arguments = respelled(step, lambda place: place.replace("run/", "moved/"), step.places)
            for state in STATES:
                yield Attack(
                    "moved",
                    step,
                    state,
                    change,
                    (Call(arguments),),
                    (step,),
                    out=step.out.replace("run/", "moved/"),
                    # The VAE of a rollout's policy is looked for where the policy was.
                    must=WORKS if (step.name, how) != ("next-scores", "renamed") else "",
                    prefix=("run", "moved"),
                )
        for given in step.inputs:
            if given.kind not in ("model", "reward", "index", "prompts"):
                continue
            # Scores find the VAE, and adapters their base, where it was.
            if given.kind == "model" and given.path not in step.arguments:
                continue
            target = f"{given.path}-moved"
            change = Change(
                "moved",
                f"{given.path} renamed",
                moving(os.rename, given.path, target),
                BEFORE,
            )
            arguments = respelled(step, lambda place, new=target: new, (given.path,))
            for state in STATES[1:]:
                yield Attack("moved", step, state, change, (Call(arguments),), (step,), must=WORKS)


def moving(move: Callable, source: str, target: str) -> Callable[[Path], None]:
    return lambda root: move(root / source, root / target)


def spellings(world: World) -> Iterator[Attack]:
    """The same paths in other words, for all of them, the output alone, or all but the output."""
    link = Change("", "here is a link to .", lambda root: (root / "here").symlink_to("."), BEFORE)
    ways: dict[str, tuple[Change, Callable[[str], str], str]] = {
        "./": (UNCHANGED, lambda place: f"./{place}", "."),
        "..": (UNCHANGED, lambda place: f"photos/../{place}", "."),
        "//": (UNCHANGED, lambda place: place.replace("/", "//"), "."),
        "absolute": (UNCHANGED, lambda place: str(world.root / place), "."),
        "from run": (UNCHANGED, lambda place: os.path.relpath(place, "run"), "run"),
        "from photos": (UNCHANGED, lambda place: os.path.relpath(place, "photos"), "photos"),
        "by a link": (link, lambda place: f"here/{place}", "."),
    }
    for step in world.steps:
        inputs = [place for place in step.places if place != step.out]
        for change, spell, folder in ways.values():
            for places in (step.places, inputs, [step.out]):
                if folder != "." and places is not step.places:
                    continue
                call = Call(respelled(step, spell, places), folder)
                if call.arguments == step.arguments:
                    continue
                for state in STATES:
                    yield Attack("spelled", step, state, change, (call,), (step,), must=WORKS)


def settings(world: World) -> Iterator[Attack]:
    """Begun, or finished, with other settings."""
    for step in world.steps:
        for flags in step.settings:
            other = step.with_flags(flags)
            for state in (Killed(0.15), *STATES[1:]):
                for flag in ((), ("--overwrite",)):
                    calls = (Call((*other.arguments, *flag)),)
                    yield Attack("settings", step, state, UNCHANGED, calls, (other,))


def outputs_that_are_inputs(world: World) -> Iterator[Attack]:
    def link(place: str) -> Change:
        return Change(
            "", f"link to {place}", lambda root: (root / "link").symlink_to(place), BEFORE
        )

    for step in world.steps:
        places = {given.path for given in step.inputs}
        for place in sorted({*places, *(str(Path(each).parent) for each in places)} - {"."}):
            spellings = {
                place: UNCHANGED,
                f"./{place}/": UNCHANGED,
                f"photos/../{place}": UNCHANGED,
                str(world.root / place): UNCHANGED,
                "link": link(place),
            }
            for out, change in spellings.items():
                for flag in ((), ("--overwrite",)):
                    yield Attack(
                        "output is input",
                        step,
                        FINISHED,
                        change,
                        (Call((*with_out(step, out), *flag)),),
                        (step,),
                        out=place,
                        own=False,
                        must=REFUSED if place in places else "",
                    )


def foreign_outputs(world: World) -> Iterator[Attack]:
    """An output that expo did not make, that another command made, or that has a file in it whose
    name is one of the command's own."""
    for step in world.steps:
        others = [other.out for other in world.steps if other.command != step.command]
        places = dict.fromkeys(("photos", "notes.md", "models/sd", "run", *others), UNCHANGED)
        made = sorted(
            name.removeprefix(f"{step.out}/")
            for name, entry in world.output(world.base, step).items()
            if entry.kind == "file" and name.startswith(f"{step.out}/")
        )
        for name in made:
            places[f"mine/{name}"] = Change("", f"mine/{name} is the user's", written(name), BEFORE)
        if step.single:
            for name in ("mine.jsonl", "mine.jsonl.run.json", "heldout.jsonl"):
                places[f"mine/{name}/single"] = Change(
                    "", f"mine/{name} is the user's", written(name), BEFORE
                )
        for place, change in places.items():
            out = place
            if place.startswith("mine/"):
                out = "mine/mine.jsonl" if place.endswith("/single") else "mine"
            for flag in ((), ("--overwrite",)):
                yield Attack(
                    "foreign output",
                    step,
                    FINISHED,
                    change,
                    (Call((*with_out(step, out), *flag)),),
                    (step,),
                    out=out,
                    own=False,
                )


def written(name: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        path = root / "mine" / name
        path.parent.mkdir(parents=True)
        path.write_text("mine\n")

    return apply


def odd_outputs(world: World) -> Iterator[Attack]:
    """The current folder, those above it, and an empty name."""
    for step in world.steps:
        above = ["", ".", "./", "photos/..", "..", "../", str(world.root)]
        # A command that made a file of it would write into the root of this machine.
        for out in [*above, "/"] if step.single else above:
            for flag in ((), ("--overwrite",)):
                if out == "/" and flag:
                    continue
                calls = (Call((*with_out(step, out), *flag)),)
                yield Attack(
                    "odd output", step, FINISHED, UNCHANGED, calls, own=False, must=REFUSED
                )


def adoptions(world: World) -> Iterator[Attack]:
    """Results without a run.json that describes them."""

    def forgotten(step: Step) -> Change:
        def apply(root: Path) -> None:
            for name in world.output(world.base, step):
                if name.endswith("run.json"):
                    (root / name).unlink(missing_ok=True)

        return Change("", f"{step.out} without any run.json", apply, BEFORE)

    for step in world.steps:
        for flags in step.settings:
            other = step.with_flags(flags)
            for state in STATES[2:]:
                for flag in ((), ("--overwrite",)):
                    calls = (Call((*other.arguments, *flag)),)
                    yield Attack(
                        "adopted", step, state, forgotten(step), calls, (other,), own=False
                    )


def two_workers(world: World) -> Iterator[Attack]:
    """Two commands at once; the first is halted at a moment until the second has ended."""
    for step in world.steps:
        shards = step.command in ("rollout", "score") or "--part-size" in step.line
        for flags in step.settings:
            other = step.with_flags(flags)
            for moment in (2, 3, 4, 5, 6, 8, 12, world.changes[step.name] // 2):
                for sharded in (False, True) if shards else (False,):
                    calls = tuple(
                        Call(
                            (
                                *each.arguments,
                                *(("--shard", f"{number}/2") if sharded else ()),
                            ),
                            moment=moment,
                        )
                        for number, each in enumerate((step, other))
                    )
                    yield Attack(
                        "two workers",
                        step,
                        NOTHING,
                        UNCHANGED,
                        calls,
                        (step, other),
                        partly=sharded,
                    )


def older_versions(world: World) -> Iterator[Attack]:
    """What a version made whose run.json had no format, and its records no digests."""

    def aged(step: Step) -> Change:
        def apply(root: Path) -> None:
            for name in world.output(world.base, step):
                path = root / name
                if name.endswith("run.json") and path.exists():
                    run = json.loads(path.read_bytes())
                    run.pop("format", None)
                    path.write_text(json.dumps(run, indent=2))
                elif name.endswith(".jsonl") and path.is_file():
                    lines = [without_digests(json.loads(line)) for line in path.open()]
                    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))

        return Change("", f"{step.out} of an older version", apply, BEFORE)

    for step in world.steps:
        for state in (Killed(0.3), Killed(0.45), Killed(0.6), Killed(0.8), FINISHED):
            calls = (Call(step.arguments),)
            yield Attack("older version", step, state, aged(step), calls, (step,))


def without_digests(record: object) -> object:
    if isinstance(record, dict):
        return {key: without_digests(value) for key, value in record.items() if key != "digest"}
    return record


def incompatible(world: World) -> Iterator[Attack]:
    """Models that read the data in another way than those that made it."""
    scheduler, vae = "scheduler/scheduler_config.json", "vae/config.json"
    cases = (
        ("adapter", f"models/other/{scheduler}", {"prediction_type": "v_prediction"}),
        ("adapter", f"models/sd/{scheduler}", {"prediction_type": "v_prediction"}),
        ("adapter", f"models/sd/{vae}", {"scaling_factor": 0.01}),
        ("adapter-2", f"models/sd/{vae}", {"scaling_factor": 0.01}),
        ("trained", f"models/sd/{vae}", {"scaling_factor": 0.01}),
    )
    for name, path, values in cases:
        step = STEPS[name]
        (setting,) = values
        change = Change("incompatible", f"{path} with another {setting}", in_json(path, **values))
        yield Attack("incompatible", step, NOTHING, change, (Call(step.arguments),), must=REFUSED)


EDGES = (
    *("-1", "0", "1", "0.5", "-0.0", "1000000", "1000000000", "2147483648", "4294967296"),
    *("9223372036854775807", "9223372036854775808", "18446744073709551616", "1" * 400),
    *("nan", "inf", "-inf", "1e308", "1e-320", "", " 1", "1_000", "0x10", "\u0663"),
)


def numbers(world: World) -> Iterator[Attack]:
    """Numbers at the edge of their types, and beyond."""
    for step in world.steps:
        for flag in step.numbers:
            for value in EDGES:
                arguments = [*step.with_flags(f"{flag} @").arguments]
                arguments[arguments.index("@")] = value
                yield Attack(
                    "numbers",
                    step,
                    NOTHING,
                    UNCHANGED,
                    (Call(tuple(arguments)),),
                    limit=10,
                )


def streams(world: World) -> Iterator[Attack]:
    """Standard streams that are full or closed, and inputs that can be read once or never end."""
    commands = {
        "prompts": STEPS["prompts"].arguments,
        "pairs": STEPS["pairs"].arguments,
        "main": (*STEPS["main"].arguments, "--dry-run"),
        "evaluated": (*STEPS["evaluated"].arguments, "--dry-run"),
    }
    endings = ("> /dev/full", ">&-", "2> /dev/full", "2>&-", "<&-", "> /dev/full 2>&1", ">&- 2>&-")
    for name, arguments in commands.items():
        for ending in endings:
            for flag in ("", " --json"):
                line = shlex.join(("expo", *arguments)) + flag
                yield streamed(name, f"{line} {ending}", NOTHING)
    for name in ("prompts", "pairs"):
        line = shlex.join(("expo", *with_out(STEPS[name], "-")))
        line = line.replace(" --heldout-fraction 0.2", "")
        for ending in ("> /dev/full", ">&-"):
            yield streamed(name, f"{line} {ending}", NOTHING, REFUSED)
        yield streamed(name, f"{line} | head -c 1", NOTHING)
    yield from read_once()
    for name in ("pictures/0.png", "pictures/index.jsonl", "train.parquet"):
        reader = STEPS["imported" if name.endswith("parquet") else "picture-scores"]
        for what, make in (("a FIFO", os.mkfifo), ("endless", endless), ("a folder", os.mkdir)):
            change = Change("streams", f"{name} is {what}", instead(name, make))
            yield Attack(
                "streams",
                reader,
                NOTHING,
                change,
                (Call(reader.arguments),),
                must=REFUSED,
                limit=10,
            )


def read_once() -> Iterator[Attack]:
    """Inputs from pipes and standard input, and no room for what is kept of them."""
    words, more = "words.txt", "words.txt more.txt"
    for inputs, ending in (
        ("<(cat words.txt)", ""),
        ("-", "< words.txt"),
        ("-", "< <(cat words.txt)"),
        ("/dev/stdin", "< <(cat words.txt)"),
        ("words.txt <(cat more.txt)", ""),
        ("<(cat words.txt) <(cat more.txt)", ""),
    ):
        step = STEPS["prompts"]
        same = more if "more.txt" in inputs else words
        clean = replace(step, line=f"{step.line.replace(words, same)} --layout txt")
        line = f"expo {clean.line.replace(same, inputs)} --out {step.out} {ending}"
        yield streamed("prompts", line, NOTHING, WORKS, clean=(clean,))
    for inputs, ending in (
        ("-", "<&-"),
        ("photos", ""),
        ("/dev/full", ""),
        ("-", "< /dev/null"),
    ):
        line = f"expo {STEPS['prompts'].line.replace(words, inputs)} --layout txt --out run/prompts.jsonl"
        yield streamed("prompts", f"{line} {ending}", NOTHING, REFUSED)
    for inputs, ending in (("-", "< words.txt"), (words, "")):
        line = f"expo {STEPS['prompts'].line.replace(words, inputs)} --layout txt --out run/prompts.jsonl"
        yield streamed("prompts", f"ulimit -f 0; {line} {ending}", NOTHING, REFUSED)
    draw = STEPS["main"].line.replace("run/prompts.jsonl", "-")
    yield streamed("main", f"expo {draw} --out run/main <&-", NOTHING, REFUSED)
    yield streamed("main", f"expo {draw} --out run/main --dry-run <&-", NOTHING, REFUSED)
    for inputs, ending in (("-", "< run/pairs.jsonl"), ("<(cat run/pairs.jsonl)", "")):
        train = STEPS["adapter"].line.replace("run/pairs.jsonl", inputs)
        for flag in ("", "--dry-run"):
            line = f"expo {train} --out run/adapter {flag} {ending}"
            # Where its latents are is not known.
            yield streamed("adapter", line, NOTHING, REFUSED)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def instead(name: str, make: Callable[[Path], None]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        remove(root / name)
        make(root / name)

    return apply


def streamed(
    name: str, line: str, state: State, must: str = "", clean: tuple[Step, ...] = ()
) -> Attack:
    step = STEPS[name]
    return Attack("streams", step, state, UNCHANGED, (Call(shell=line),), clean, must=must)


def statuses(world: World) -> Iterator[Attack]:
    """`expo status` of outputs that are whole, that lack something, and that are none."""
    for step in world.steps:
        call = (Call(("status", step.out)),)
        yield Attack("status", step, FINISHED, UNCHANGED, call, own=False, must=0)
        yield Attack("status", step, NOTHING, UNCHANGED, call, own=False, must=75)
        for state in (Killed(0.15), Killed(0.3), Killed(0.6)):
            yield Attack("status", step, state, UNCHANGED, call, own=False, must=75)
        results = [
            name
            for name, entry in world.output(world.base, step).items()
            if step.is_result(name) and entry.kind == "file"
        ]
        for name in results:
            change = Change("status", f"{name} is gone", removed(name))
            yield Attack("status", step, FINISHED, change, call, own=False, must=75)
    for place in ("photos", "notes.md", "models/sd"):
        call = (Call(("status", place)),)
        yield Attack("status", STEPS["main"], FINISHED, UNCHANGED, call, own=False, must=REFUSED)


def removed(name: str) -> Callable[[Path], None]:
    return lambda root: remove(root / name)


def sampled(attacks: Sequence[Attack], count: int, seed: int) -> list[Attack]:
    """So many of each kind, of them so many of each command, as can be; always the same ones."""
    chosen = random.Random(seed)
    piles: dict[str, dict[str, list[Attack]]] = {}
    for attack in chosen.sample(attacks, len(attacks)):
        piles.setdefault(attack.kind, {}).setdefault(attack.step.name, []).append(attack)
    taken: list[Attack] = []
    while piles and len(taken) < count:
        for kind in sorted(piles):
            steps = piles[kind]
            name = next(iter(steps))
            pile = steps.pop(name)
            taken.append(pile.pop())
            # The next one of this kind is of another command.
            if pile:
                steps[name] = pile
            if not steps:
                del piles[kind]
    return taken[:count]
