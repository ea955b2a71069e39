"""The caller's side: hands a command over to a worker, passes signals on, and exits as the worker.

This module is imported first, so it must not import anything slow.
"""

import fcntl
import marshal
import os
import resource
import signal
import socket
from contextlib import suppress

from expo_cli.warm.caller import (
    SOCKET,
    described,
    ignored_signals,
    may_fork,
    open_files,
    surroundings,
)

STOPPING = {signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
PASSED_ON = STOPPING | {
    *(signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGCONT)
}


def hand_over(program: str) -> int:
    """Run the function `program`, given as MODULE:NAME, in a worker, and exit as the worker does.

    Returns 0 if there is no server, or if its workers would differ from this process; returns the
    signal that asked to stop before there was a worker.
    """
    if not os.environ.get(SOCKET) or not may_fork():
        return 0
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    passed_on = PASSED_ON - ignored_signals() - blocked
    signal.pthread_sigmask(signal.SIG_BLOCK, passed_on | {signal.SIGIO})
    held, life = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as connection, held:
        try:
            request(connection, program, life, blocked)
            worker, stopped = answer(connection, passed_on)
        except OSError:  # the server has ended
            worker, stopped = None, 0
        if worker is not None:
            accompany(connection, worker, passed_on)
    # Ignoring a signal discards it: one that came while the connection was closed would end this process.
    signal.signal(signal.SIGIO, signal.signal(signal.SIGIO, signal.SIG_IGN))
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return stopped


def request(
    connection: socket.socket, program: str, life: socket.socket, blocked: set[int]
) -> None:
    """Request a worker. It is killed as soon as the other end of `life` is closed."""
    connection.connect(os.environ[SOCKET])
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETFL, os.O_ASYNC)  # SIGIO when something can be read
    files = open_files()
    message = {
        "program": program,
        "surroundings": surroundings(),
        "files": files,
        "caller": described(blocked),
    }
    content = marshal.dumps(message)  # json takes longer to import than all this
    folder = os.open(".", os.O_PATH | os.O_DIRECTORY)
    with life:
        descriptors = [life.fileno(), folder, *files]
        socket.send_fds(connection, [len(content).to_bytes(8, "little")], descriptors)
    connection.sendall(content)
    os.close(folder)
    connection.setblocking(False)


def answer(connection: socket.socket, passed_on: set[int]) -> tuple[int | None, int]:
    """The worker's descriptor, None if the server refuses, and the signal that arrived before it.

    A server's first command waits for its imports.
    """
    while True:
        number = signal.sigwaitinfo(passed_on | {signal.SIGIO}).si_signo
        if number == signal.SIGIO:
            with suppress(BlockingIOError):
                _, descriptors, *_ = socket.recv_fds(connection, 1, 1)
                return (descriptors[0] if descriptors else None), 0
        elif number in STOPPING:
            return None, number
        elif number == signal.SIGTSTP:
            os.kill(os.getpid(), signal.SIGSTOP)
        elif number != signal.SIGCONT:
            end_by(number)


def accompany(connection: socket.socket, worker: int, passed_on: set[int]) -> None:
    """Pass signals on to the worker until it ends; does not return."""
    while True:
        with suppress(BlockingIOError):
            end_as(connection.recv(4))
        caught = signal.sigwaitinfo(passed_on | {signal.SIGIO})
        if caught.si_signo != signal.SIGIO:
            pass_on(worker, caught)


def pass_on(worker: int, caught: signal.struct_siginfo) -> None:
    # The worker, in the same process group, has also got signals of the kernel (of a terminal).
    if caught.si_code <= 0:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(worker, caught.si_signo)
    if caught.si_signo == signal.SIGTSTP:
        os.kill(os.getpid(), signal.SIGSTOP)


def end_as(status: bytes) -> None:
    """Exit with a worker's wait status; without one, the server was killed, and the worker too."""
    if not status:
        end_by(signal.SIGKILL)
    code = os.waitstatus_to_exitcode(int.from_bytes(status, "little"))
    if code < 0:
        end_by(-code)
    os._exit(code)


def end_by(number: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the worker has left a core dump, if any
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
