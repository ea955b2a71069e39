"""What a command finds around it, as JSON: `python tests/probe.py [COMMAND ...]`.

COMMANDs: `threads` adds those of the libraries, `read` the standard input; `sleep` waits at the end,
with the signals in `SHOWN` written to the standard error as they come; `write` appends to the file
that follows for ever.
"""

import json
import os
import resource
import signal
import sys
import time

from expo_cli.warm.caller import is_inherited
from expo_cli.warm.client import hand_over

SHOWN = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)


def found() -> dict:
    umask = os.umask(0)
    os.umask(umask)
    files = {n: os.readlink(f"/proc/self/fd/{n}") for n in range(256) if is_inherited(n)}
    limits = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    return {
        "process": os.getpid(),
        "arguments": sys.argv,
        "folder": os.getcwd(),
        "umask": umask,
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in limits},
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "cores": sorted(os.sched_getaffinity(0)),
        "group": os.getpgrp(),
        "session": os.getsid(0),
        "ignored": [n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "files": {n: name.partition(":")[0] for n, name in files.items()},
        "streams": [stream and stream.fileno() for stream in (sys.stdin, sys.stdout, sys.stderr)],
    }


def threads() -> dict[str, int]:
    import numpy  # noqa: F401
    import torch
    from threadpoolctl import threadpool_info

    [blas] = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    return {"torch": torch.get_num_threads(), "blas": blas}


def main() -> None:
    commands = sys.argv[1:]
    report = {"environment": dict(os.environ), "is_warm": __name__ != "__main__", **found()}
    if "threads" in commands:
        report["threads"] = threads()
    if "read" in commands:
        report["input"] = sys.stdin.read()
    if "sleep" in commands:
        for number in SHOWN:
            signal.signal(number, lambda n, _: os.write(2, f"{signal.Signals(n).name}\n".encode()))
    print(json.dumps(report), file=sys.stdout or sys.stderr, flush=True)  # noqa: T201
    while "sleep" in commands:
        time.sleep(0.01)
    if "write" in commands:
        with open(commands[-1], "ab", buffering=0) as file:
            while True:
                file.write(b"x")


if __name__ == "__main__":
    hand_over("probe:main")
    main()
