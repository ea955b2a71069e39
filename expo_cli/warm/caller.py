"""The state that a command gets from its caller: sent by the client, adopted by the worker.

This module is imported first, so it must not import anything slow.
"""

import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence

SOCKET = "EXPO_WARM"
"""The environment variable that names the server's socket."""

# Variables that no import reads: locations, and the number of threads, which a worker sets.
FREE = {
    "_",
    "COLUMNS",
    "EXPO_WARM",
    "LINES",
    "OLDPWD",
    "OMP_NUM_THREADS",
    "PATH",
    "PS1",
    "PWD",
    "PYTEST_CURRENT_TEST",
    "SHLVL",
}
LAUNCHERS = ("ACCELERATE_", "LOCAL_RANK", "RANK", "SLURM_", "TORCHELASTIC_", "WORLD_SIZE")
GPUS = ("nvidia", "kfd", "dxg")  # CUDA, ROCm, CUDA of WSL
LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})
RIGHTS = ("Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Cap")

Caller = dict[str, object]


def may_fork() -> bool:
    """Whether commands may fork from a process that has imported torch.

    Not if torch might find a GPU: even asking torch for one can break a fork, so /dev is searched. And
    not for processes that train together, which their launcher starts.
    """
    return (
        sys.platform == "linux"
        and not any(name.startswith(GPUS) for name in os.listdir("/dev"))
        and not any(name.startswith(LAUNCHERS) for name in os.environ)
    )


def surroundings() -> list[object]:
    """State that a process cannot adopt from another one; it must be equal for a warm start."""
    with open("/proc/self/status") as status, open("/proc/self/cgroup") as cgroup:
        rights = [line for line in status if line.startswith(RIGHTS)]
        groups = cgroup.read()
    namespaces = [os.readlink(entry.path) for entry in os.scandir("/proc/self/ns")]
    root = os.stat("/")
    return [
        # `python` and `python3` of an environment are one interpreter.
        *(sys.prefix, os.path.realpath(sys.executable), sys.version, list(sys.flags)),
        *(sys.warnoptions, sys._xoptions, os.path.dirname(os.path.dirname(__file__))),
        *(os.getsid(0), rights, groups),
        *(sorted(namespaces), root.st_dev, root.st_ino),
    ]


def described(blocked: set[int]) -> Caller:
    """This process, with these signals `blocked`, as the caller of a command, without its open files (see
    `open_files`).
    """
    umask = os.umask(0o077)
    os.umask(umask)
    return {
        "arguments": sys.argv,
        "path": sys.path,
        "environment": dict(os.environ),
        "umask": umask,
        "limits": [[each, *resource.getrlimit(each)] for each in LIMITS],
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "cores": sorted(os.sched_getaffinity(0)),
        "group": os.getpgrp(),
        "ignored": sorted(map(int, ignored_signals())),
        "blocked": sorted(map(int, blocked)),
    }


def ignored_signals() -> set[int]:
    return {n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN}


def open_files() -> list[int]:
    """Descriptors that a child process would inherit: the standard streams, pipes of `<(...)`."""
    return sorted(n for n in map(int, os.listdir("/proc/self/fd")) if is_inherited(n))


def is_inherited(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:  # the descriptor that listed the others
        return False


def take_on(caller: Caller) -> None:
    """Adopt the caller's state, except its files.

    Raises OSError or ValueError if the system refuses, for example a limit above the server's.
    """
    os.setpgid(0, caller["group"])
    os.umask(caller["umask"])
    os.setpriority(os.PRIO_PROCESS, 0, caller["nice"])
    os.sched_setaffinity(0, caller["cores"])
    for each, soft, hard in caller["limits"]:
        resource.setrlimit(each, (soft, hard))
    os.environ.clear()
    os.environ.update(caller["environment"])
    sys.argv[:], sys.path[:] = caller["arguments"], caller["path"]
    take_on_signals(caller["ignored"], caller["blocked"])


def take_on_signals(ignored: Sequence[int], blocked: Sequence[int]) -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
    if signal.SIGINT not in ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def take_on_files(files: Mapping[int, int]) -> None:
    """Move each descriptor `files[place]` to its place, and adapt the standard streams. No value of
    `files` may also be a place.

    The stream objects are kept, because loggers of imported libraries hold them.
    """
    for place, descriptor in files.items():
        os.dup2(descriptor, place)
        os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if number not in files:
            os.close(number)
            setattr(sys, name, None)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(line_buffering=stream is sys.stderr or stream.isatty())
