"""Commands with inputs, outputs and settings that do not belong together, and what comes of them.

    python -m tests.hostile.mixtures --seed 0 --count 500

Each attack is one command line, or two at once, in a folder that holds a whole finished iteration
of which something was replaced, moved, cut or stopped before. It is mishandled when it ends in a
traceback, in silence or with an exit code that is not one of ours, when a file that the command did
not make is changed or gone, when it is refused but has written, or when it ends well with a result
that a clean folder does not give.

Every mishandled attack is a line on standard output; the last line is JSON of all figures.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

# What draws and trains nothing, and what that needs.
FAST = (
    *("prompts", "main-scores", "scores", "picture-scores", "pairs", "pairs-apart", "imported"),
    "exported",
)
NEEDED = ("main", "explore", "explore-scores")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=500, help="attacks; 0: all there are")
    parser.add_argument("--expo", type=Path, default=Path.cwd(), help="the checkout to attack")
    parser.add_argument("--patience", type=float, default=60, help="seconds of silence")
    parser.add_argument("--kind", action="append", help="attacks of these kinds only")
    parser.add_argument("--match", default="", help="attacks whose line has this pattern only")
    parser.add_argument("--fast", action="store_true", help="only commands that draw nothing")
    parser.add_argument("--verbose", action="store_true", help="a line for every attack")
    options = parser.parse_args()
    # Before anything of it is imported.
    sys.path.insert(0, str(options.expo.resolve()))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        sys.exit(attack_all(Path(folder), options))


def attack_all(folder: Path, options: argparse.Namespace) -> int:
    from tests.hostile.mixtures.attacks import all_attacks, sampled
    from tests.hostile.mixtures.oracle import mishandled
    from tests.hostile.mixtures.processes import preload
    from tests.hostile.mixtures.steps import ALL
    from tests.hostile.mixtures.world import World

    started = time.monotonic()
    preload()
    steps = [step for step in ALL if not options.fast or step.name in (*FAST, *NEEDED)]
    world = World(folder, options.patience, steps)
    attacks = [
        attack
        for attack in all_attacks(world)
        if (not options.kind or attack.kind in options.kind)
        and re.search(options.match, str(attack))
        and (not options.fast or (attack.step.name in FAST and attack.kind != "streams"))
    ]
    generated = len(attacks)
    attacks = sampled(attacks, options.count or generated, options.seed)
    built = time.monotonic() - started
    made, found, reasons = Counter(), Counter(), Counter()
    for number, attack in enumerate(attacks):
        began = time.monotonic()
        wrong, ends = mishandled(world, attack)
        made[attack.kind] += 1
        if wrong:
            found[attack.kind] += 1
            reasons.update({reason.partition(":")[0] for reason in wrong})
        if wrong or options.verbose:
            said = [ended.errors.strip().splitlines()[-1:] for ended in ends]
            print_line(number, attack, wrong, said if options.verbose else [], began)
    figures = {
        "expo": str(options.expo),
        "seed": options.seed,
        "generated": generated,
        "attacks": len(attacks),
        "mishandled": sum(found.values()),
        "by_kind": {kind: [found[kind], count] for kind, count in sorted(made.items())},
        "by_reason": dict(reasons.most_common()),
        "seconds_to_build": round(built, 1),
        "seconds": round(time.monotonic() - started, 1),
    }
    sys.stdout.write(f"{json.dumps(figures)}\n")
    return int(bool(found))


def print_line(number: int, attack: object, wrong: list[str], said: list, began: float) -> None:
    verdict = " | ".join(wrong) or "well"
    seconds = time.monotonic() - began
    sys.stdout.write(
        f"{number} [{attack.kind}] {attack} -> {verdict} ({seconds:.1f} s) {said or ''}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
