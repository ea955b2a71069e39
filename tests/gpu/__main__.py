"""Whether everything that depends on the device works on this one, and how fast it is.

    python -m tests.gpu [--minutes 5] [--json FILE]

On a GPU with random weights of SD 1.5's width at 512x512, elsewhere with toy ones. Neither a network
nor the models that expo ships are needed. Prints a line per check as it ends, and finally a JSON of all;
the exit code is 1 if one failed. Rates are not judged.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

# Read when the libraries are loaded. cuBLAS needs its setting for the same bytes twice.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "DIFFUSERS_VERBOSITY": "error",
}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=5.0, help="After which no rate is begun any more."
    )
    parser.add_argument("--size", choices=["toy", "sd15"], help="By default sd15 on a GPU only.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="Only these.")
    parser.add_argument(
        "--bound", nargs=2, action="append", default=[], metavar=("NAME", "BOUND"), help="Another."
    )
    parser.add_argument("--json", type=Path, help="Write it here, not on standard output.")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    os.environ |= ENVIRONMENT
    import torch
    from diffusers.utils.logging import disable_progress_bar

    from expo_cli.stages.common.device import default_device
    from tests.gpu.cases import NAMES
    from tests.gpu.setting import Setting

    disable_progress_bar()
    named = {*(options.only or []), *(name for name, _ in options.bound)}
    if unknown := named - {*NAMES}:
        sys.exit(f"no check {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    on_gpu = default_device().type == "cuda"
    size = options.size or ("sd15" if on_gpu else "toy")
    about = {
        "device": torch.cuda.get_device_name() if on_gpu else default_device().type,
        "size": size,
        "torch": torch.__version__,
    }
    started = time.perf_counter()
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for outcome in run(Setting(Path(folder), size), options, started):
            show(outcome.line)
            outcomes.append(outcome)
    seconds = time.perf_counter() - started
    report = json.dumps(about | {"seconds": seconds, "checks": [asdict(o) for o in outcomes]})
    if options.json:
        options.json.write_text(report + "\n")
    else:
        show(report)
    return int(any(outcome.status == "FAIL" for outcome in outcomes))


def run(setting, options: argparse.Namespace, started: float) -> Iterator:
    from tests.gpu.cases import CHECKS, THROUGHPUT
    from tests.gpu.checks import run_check, run_throughput

    bounds = {name: float(bound) for name, bound in options.bound}
    for check in CHECKS:
        if not options.only or check.name in options.only:
            yield run_check(check, setting, bounds.get(check.name, check.bound))
    for case in THROUGHPUT:
        if not options.only or case.name in options.only:
            has_time = time.perf_counter() - started < 60 * options.minutes
            yield run_throughput(case, setting, has_time)


def show(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
