"""Kill every command at many moments, run it again, and compare with a run that nobody killed.

    python -m tests.faults.kills --kills 40 --seed 0            in commands that are warm
    python -m tests.faults.kills --kills 2 --seed 0 --cold      and in others

Half of the moments are changes to the disk (the process gets the signal right before it makes the
n-th, for n spread evenly over all of them), half are random times between the first change and the
end. One run in four is killed again while it makes up for the first kill.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.running import Finished, Running
from tests.faults.trees import Tree, differences, go_back, tree_of
from tests.faults.world import COMMANDS, Command, build_world
from tests.warm import cold, warm

STOPPED = 75


@dataclass(frozen=True)
class Moment:
    """When a signal comes: right before the `change`-th change, or after some `seconds`."""

    number: int = signal.SIGKILL
    change: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        when = f"change {self.change}" if self.change else f"{self.seconds:.3f} s"
        return f"{signal.Signals(self.number).name} at {when}"


@dataclass
class Tally:
    """What was done to one command, and what came out."""

    command: Command
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class Trial:
    """One command in a folder that holds its inputs: run whole once, then disturbed."""

    def __init__(self, command: Command, folder: Path, log: Path) -> None:
        self.command, self.folder, self.log = command, folder, log
        self.before = tree_of(folder)
        self.whole = self.run()
        assert self.whole.code == 0, f"{command.name}: {self.whole.errors}"
        self.after = tree_of(folder)

    def run(self, moment: Moment | None = None) -> Finished:
        arguments = self.command.arguments
        if moment is None:
            return Running(arguments, self.folder, self.log).finished()
        if moment.change:
            signal_at = (moment.number, moment.change)
            return Running(arguments, self.folder, self.log, signal_at).finished()
        running = Running(arguments, self.folder, self.log)
        running.ends_within(moment.seconds)
        running.kill(moment.number)
        return running.finished()

    def moments(self, count: int, chosen: random.Random, number: int) -> Iterator[Moment]:
        changes, window = len(self.whole.changes), self.whole.changes[0].seconds
        at_changes = count - count // 2
        for i in range(at_changes):
            share = (i + chosen.random()) / at_changes
            yield Moment(number, change=1 + int(share * changes))
        for _ in range(count // 2):
            yield Moment(number, seconds=chosen.uniform(window, 0.8 * self.whole.seconds))

    def disturb(self, moment: Moment, chosen: random.Random, tally: Tally) -> None:
        """Signal a run that begins anew at `moment`, finish it by running again, and compare."""
        go_back(self.folder, self.before)
        history = [str(moment)]
        run = self.run(moment)
        self.count(run, moment, tree_of(self.folder), tally)
        if chosen.random() < 0.25:
            again = next(self.moments(1, chosen, moment.number))
            history.append(str(again))
            run = self.run(again)
            self.count(run, again, tree_of(self.folder), tally)
        shift_times(self.folder, chosen)
        last = self.run()
        tally.counts["reruns"] += 1
        wrong = differences(self.after, tree_of(self.folder))
        if last.code or "Traceback" in last.errors or "Traceback" in run.errors:
            wrong.append(f"exit code {last.code}: {run.errors}{last.errors}")
        tally.counts["equal"] += not wrong
        if wrong:
            tally.faults.append(f"{self.command.name}, {', '.join(history)}: {'; '.join(wrong)}")

    def count(self, run: Finished, moment: Moment, left: Tree, tally: Tally) -> None:
        if moment.number == signal.SIGKILL:
            tally.counts["kills"] += run.killed
            tally.counts["middle"] += run.killed and left not in (self.before, self.after)
        else:
            tally.counts["stops"] += run.code == STOPPED
            if run.code not in (0, STOPPED):
                tally.faults.append(f"{self.command.name}, {moment}: exit code {run.code}")


def shift_times(folder: Path, chosen: random.Random) -> None:
    """Give every file a random time from 2001 to 2040, as clocks that are wrong would."""
    for path in folder.rglob("*"):
        seconds = chosen.randrange(10**9, 2_200_000_000)
        os.utime(path, (seconds, seconds))


def kill_all(folder: Path, kills: int, seed: int) -> Iterator[Tally]:
    """Disturb each command by so many kills, and a quarter as many SIGTERMs."""
    build_world(folder / "world")
    for command in COMMANDS:
        chosen = random.Random(f"{seed}/{command.name}")
        trial = Trial(command, folder / "world", folder / "log")
        tally = Tally(command)
        for number, count in ((signal.SIGKILL, kills), (signal.SIGTERM, -(-kills // 4))):
            for moment in trial.moments(count, chosen, number):
                trial.disturb(moment, chosen, tally)
        yield tally


def summary(tallies: list[Tally]) -> str:
    total = sum((tally.counts for tally in tallies), Counter())
    return (
        f"{len(tallies)} commands, {total['kills']} kills ({total['middle']} in the middle of the "
        f"output), {total['stops']} stops by SIGTERM, {total['reruns']} trees finished by running "
        f"again, {total['equal']} of them equal byte for byte"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cold", action="store_true", help="Import anew in each command.")
    options = parser.parse_args()
    tallies = []
    with tempfile.TemporaryDirectory() as folder, cold() if options.cold else warm():
        for tally in kill_all(Path(folder), options.kills, options.seed):
            tallies.append(tally)
            sys.stdout.write("".join(f"FAULT {fault}\n" for fault in tally.faults))
            sys.stdout.write(f"{tally.command.name}: {dict(tally.counts)}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{summary(tallies)}\n")
    sys.exit(any(tally.faults for tally in tallies))


if __name__ == "__main__":
    main()
