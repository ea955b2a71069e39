"""The server: imports, never computes, and forks a worker for each command."""

import atexit
import fcntl
import gc
import importlib
import marshal
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import Any, NoReturn

import expo_cli
from expo_cli.contracts.outputs import remove_any
from expo_cli.warm.caller import FREE, surroundings, take_on, take_on_files

# Some libraries start threads on import, which a fork would lose: OpenBLAS one per core, which a
# worker starts again, and Arrow's jemalloc one that returns memory in the background.
NO_THREADS = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
BEGIN = "import sys; sys.path[:] = {path!r}; from expo_cli.warm.server import main; main()"
LIBRARIES = ("torch", "diffusers", "transformers")
SECONDS_FOR_AN_OWNER = 120.0  # a shell on a busy machine takes some
MOST_FILES = 253  # the most that a message can carry (SCM_MAX_FD)

is_worker = False
"""Whether this process forked from a server; what it starts can fork from that, too."""

Request = dict[str, Any]
Stamp = list[tuple[str, int, int]]


def start(
    listener: socket.socket, folder: Path, idle_seconds: float, environment: Mapping[str, str]
) -> None:
    """Start a server in a process that outlives this one, with socket and log in `folder`.

    It exits with the process whose PID is in the file `owner` there.
    """
    with (folder / "log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-c", BEGIN.format(path=sys.path)]
            + [str(listener.fileno()), str(folder), str(idle_seconds)],
            env={name: each for name, each in environment.items() if name != "OMP_NUM_THREADS"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            pass_fds=[listener.fileno()],
            process_group=0,  # Ctrl-C in the caller's terminal is for commands
        )


def main() -> None:
    listener, folder, idle_seconds = sys.argv[1:]
    listening = socket.socket(fileno=int(listener))
    program = Server(listening, Path(folder), float(idle_seconds)).serve()
    if program is not None:
        run(program)


def run(program: str) -> NoReturn:
    """Run MODULE:NAME and exit like an interpreter, but without freeing objects: that would copy all
    pages shared with the server, for a second. multiprocessing's processes exit in the same way.
    """
    global is_worker
    is_worker = True
    module, _, name = program.partition(":")
    code: object = None
    try:
        getattr(importlib.import_module(module), name)()
    except SystemExit as end:
        code = end.code
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    os._exit(code if isinstance(code, int) else bool(code))


def preload() -> dict[str, str]:
    """Import every module of the package, and so everything that its commands import. Returns the
    environment variables that the imports set.
    """
    before = dict(os.environ)
    os.environ.update(NO_THREADS)
    for module in pkgutil.walk_packages(expo_cli.__path__, "expo_cli."):
        importlib.import_module(module.name)
    gc.collect()
    gc.freeze()  # existing objects are not collected in workers, and so stay shared with them
    after = dict(os.environ) | {name: before.get(name) for name in NO_THREADS}
    return {name: value for name, value in after.items() if before.get(name) != value}


def check_one_thread() -> None:
    assert len(os.listdir("/proc/self/task")) == 1, "a fork would lose the server's other threads"


def stamp(libraries: Sequence[Path]) -> Stamp:
    """Sizes and times of the package's modules and of its libraries' metadata."""
    files = [*sorted(Path(expo_cli.__file__).parent.rglob("*.py")), *libraries]
    known = [(str(path), path.stat()) for path in files if path.exists()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in known]


def metadata(library: str) -> Path:
    [found] = [file for file in distribution(library).files if file.name == "METADATA"]
    return Path(found.locate())


def owner_in(folder: Path) -> int:
    """A descriptor of the process whose PID is in `owner`, which the shell writes right after the start.

    Raises OSError when the process has exited.
    """
    deadline = time.monotonic() + SECONDS_FOR_AN_OWNER
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            written = (folder / "owner").read_text()
            if written.endswith("\n"):
                return os.pidfd_open(int(written))
        time.sleep(0.02)
    raise ProcessLookupError(f"{folder}: the output of `expo warm` was not evaluated")


def receive(connection: socket.socket) -> tuple[Request, list[int]]:
    """A client's request, and the descriptors that came with it. Raises OSError when it is incomplete."""
    size, descriptors, *_ = socket.recv_fds(connection, 8, MOST_FILES, socket.MSG_CMSG_CLOEXEC)
    content = bytearray()
    while not size or len(content) < int.from_bytes(size, "little"):
        if not (piece := connection.recv(1 << 16)):
            raise ConnectionResetError("the client has ended")
        content += piece
    return marshal.loads(content), descriptors


@dataclass
class Worker:
    process: int
    client: socket.socket


class Server:
    """`idle_seconds` is the time it waits for a command while none runs."""

    def __init__(self, listener: socket.socket, folder: Path, idle_seconds: float) -> None:
        self.listener, self.folder, self.idle_seconds = listener, folder, idle_seconds
        self.environment, self.surroundings = dict(os.environ), surroundings()
        self.cores = sorted(os.sched_getaffinity(0))
        self.libraries = [metadata(name) for name in LIBRARIES]
        self.stamp: Stamp | None = None
        self.set_by_imports: dict[str, str] = {}
        self.workers: dict[int, Worker] = {}
        self.owner = owner_in(folder)
        self.selector = DefaultSelector()
        self.selector.register(self.owner, EVENT_READ, self.end)
        self.selector.register(listener, EVENT_READ, self.take)
        self.is_listening = True

    def serve(self) -> str | None:
        """Fork workers until the owner has exited or no command came for too long; then returns None.
        In a worker, returns the program to run.
        """
        while self.is_listening or self.workers:
            events = self.selector.select(None if self.workers else self.idle_seconds)
            if not events:
                self.end()
            for key, _ in events:
                if program := key.data():
                    return program
        return None

    def end(self) -> None:
        """Take no more commands; running ones continue."""
        remove_any(self.folder)
        self.stop_listening()

    def stop_listening(self) -> None:
        for watched in (self.owner, self.listener):
            self.selector.unregister(watched)
        self.listener.close()
        self.is_listening = False

    def take(self) -> str | None:
        """Fork a worker for the next client. If code has changed, leave it to a new server."""
        if not self.is_listening:
            return None
        now = stamp(self.libraries)
        if self.stamp is None:
            self.stamp, self.set_by_imports = now, preload()
        if self.stamp != now:
            start(self.listener, self.folder, self.idle_seconds, self.environment)
            return self.stop_listening()
        try:
            client, _ = self.listener.accept()
            client.setblocking(True)
            request, descriptors = receive(client)
        except (OSError, EOFError, TypeError, ValueError):  # it has ended, or is another Python
            return None
        self.wait_for_abandoned()
        differences = self.differences(request)
        if not differences:
            return self.fork(request, client, descriptors)
        command = " ".join(request["caller"]["arguments"][1:2])
        sys.stderr.write(f"{command or 'expo'} is cold: other {', '.join(differences)}\n")
        sys.stderr.flush()
        client.close()
        close_all(descriptors)
        return None

    def fork(self, request: Request, client: socket.socket, descriptors: list[int]) -> str | None:
        check_one_thread()
        process = os.fork()
        if process == 0:
            self.leave()
            return work(request, client, descriptors, self.set_by_imports)
        close_all(descriptors)
        watched = os.pidfd_open(process)
        self.workers[watched] = Worker(process, client)
        self.selector.register(watched, EVENT_READ, partial(self.finish, watched))
        return None

    def differences(self, request: Request) -> list[str]:
        """What of the client's state a worker cannot adopt; none if it can be that client."""
        environment, cores = request["caller"]["environment"], request["caller"]["cores"]
        theirs, ours = self.counted(environment), self.counted(self.environment)
        found = sorted(name for name in theirs | ours if theirs.get(name) != ours.get(name))
        if request["surroundings"] != self.surroundings:
            found.append("interpreter, session, rights or namespaces")
        if not self.knows_threads(environment.get("OMP_NUM_THREADS"), cores):
            found.append("cores")
        return found

    def counted(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The variables that must equal the server's. Those that its imports set are excluded, as other
        processes with the same imports pass them on.
        """
        return {
            name: value
            for name, value in environment.items()
            if name not in FREE and self.set_by_imports.get(name) != value
        }

    def knows_threads(self, number: str | None, cores: list[int]) -> bool:
        if number is None:
            return cores == self.cores  # torch chose its threads by these
        return number.isdecimal() and int(number) > 0

    def wait_for_abandoned(self) -> None:
        """Wait for workers whose clients were killed: they are being killed too, but may be in the
        middle of a write, and the next request may be the same command.
        """
        for watched, worker in list(self.workers.items()):
            # Clients write nothing more: one that can be read from is closed.
            if select.select([worker.client], [], [], 0)[0]:
                self.finish(watched)

    def finish(self, watched: int) -> None:
        """Tell the client how its worker ended, unless that was done already."""
        if (worker := self.workers.pop(watched, None)) is None:
            return
        _, status = os.waitpid(worker.process, 0)
        with suppress(OSError), worker.client:
            worker.client.send(status.to_bytes(4, "little"))
        self.selector.unregister(watched)
        os.close(watched)

    def leave(self) -> None:
        """Close the server's descriptors in a worker."""
        self.selector.close()
        self.listener.close()
        for watched, worker in self.workers.items():
            worker.client.close()
            os.close(watched)
        os.close(self.owner)


def close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def work(
    request: Request, client: socket.socket, descriptors: list[int], variables: Mapping[str, str]
) -> str:
    """Adopt the client's state, and confirm it. Returns the program to run."""
    above = max(request["files"], default=2) + 1
    answering, life, folder, *files = (
        fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, above) for each in (client.fileno(), *descriptors)
    )
    client.close()
    close_all(descriptors)
    die_with(life)
    try:
        os.fchdir(folder)
        take_on_files(dict(zip(request["files"], files, strict=True)))
        take_on(request["caller"])
    except (OSError, ValueError):  # then the client does without
        os._exit(0)
    os.close(folder)
    os.environ.update(variables)
    set_threads(os.environ.get("OMP_NUM_THREADS"))
    with socket.socket(fileno=answering) as client:
        socket.send_fds(client, [b"y"], [os.pidfd_open(os.getpid())])
    return request["program"]


def die_with(life: int) -> None:
    """Let the kernel kill this process when the other end of the socket `life` is closed.

    The kernel closes it while the client dies, before anyone can notice that it is dead.
    """
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(life, fcntl.F_SETFL, os.O_ASYNC)
    if select.select([life], [], [], 0)[0]:
        os._exit(0)


def set_threads(number: str | None) -> None:
    """Set the threads that the libraries would have started with; None is their own choice."""
    import torch
    from threadpoolctl import threadpool_limits

    cores = len(os.sched_getaffinity(0))
    if number:
        torch.set_num_threads(int(number))
    threadpool_limits(
        min(int(os.environ.get("OPENBLAS_NUM_THREADS") or number or cores), cores), "blas"
    )
