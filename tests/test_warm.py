"""A warm command is the real one, or it is cold: real processes, each beside a cold one."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from expo_cli.warm.caller import may_fork
from tests.faults.trees import differences, go_back, tree_of
from tests.faults.world import COMMANDS, build_world
from tests.warm import cold, warm

PROBE = f"{shlex.quote(sys.executable)} {shlex.quote(str(Path(__file__).with_name('probe.py')))}"
pytestmark = pytest.mark.skipif(not may_fork(), reason="commands may not fork here")


def run(line: str, **settings) -> subprocess.CompletedProcess:
    """A line of bash in which `probe` is the program."""
    command = ["bash", "-c", line.replace("probe", PROBE)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **settings)


def report(done: subprocess.CompletedProcess) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout or done.stderr)


def start(line: str) -> subprocess.Popen:
    command = shlex.split(line.replace("probe", PROBE))
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def begun(process: subprocess.Popen) -> dict:
    """What it found, once it is at work."""
    return json.loads(process.stdout.readline())


@pytest.fixture
def end():
    """Kills the processes that it is given."""
    processes = []
    yield processes.append
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "line",
    [
        "exec probe",
        "exec probe a 'b c' '' $'\\xff'",
        "cd /tmp; exec probe",
        "umask 027; exec probe",
        "ulimit -n 100; exec probe",
        "ulimit -v 8000000; exec probe",
        "exec nice -n 5 env OMP_NUM_THREADS=1 probe",
        "exec taskset -c 0 env OMP_NUM_THREADS=1 probe",
        "trap '' HUP USR1; exec probe",
        "exec probe <&-",
        "exec probe >&-",
        "exec probe 2>&-",
        "exec probe 7</dev/null",
        "printf hello | probe read",
        "exec probe read < <(printf hello)",
        "exec env COLUMNS=33 OMP_NUM_THREADS=2 probe threads",
        "exec env OMP_NUM_THREADS=1 probe threads",
        "exec env -u OMP_NUM_THREADS probe threads",
        'exec env PATH="/nowhere:$PATH" probe',
    ],
)
def test_a_command_finds_what_it_would_find_cold(line):
    found = report(run(line))
    with cold():
        wanted = report(run(line))
    # Imports set variables of their own.
    assert found.pop("environment").items() >= wanted.pop("environment").items()
    assert (found.pop("is_warm"), wanted.pop("is_warm")) == (True, False)
    del found["process"], wanted["process"]
    assert found == wanted


def test_a_command_is_warm(end):
    process = start("probe sleep")
    end(process)
    assert begun(process)["is_warm"]


@pytest.mark.parametrize(
    "line",
    [
        "env SLURM_JOB_ID=1 probe sleep",
        "env WORLD_SIZE=2 RANK=0 probe sleep",
        "env LOCAL_RANK=0 probe sleep",
        "env ACCELERATE_USE_CPU=true probe sleep",
        "env HF_HUB_OFFLINE=0 probe sleep",
        "env -u OMP_WAIT_POLICY MPLBACKEND=svg probe sleep",
        "env OMP_NUM_THREADS=1,2 probe sleep",
        "env -u OMP_NUM_THREADS taskset -c 0 probe sleep",
        "env EXPO_WARM=/nowhere probe sleep",
        "setsid probe sleep",
    ],
)
def test_a_command_that_could_differ_is_cold(line, end):
    process = start(line)
    end(process)
    assert not begun(process)["is_warm"]


def test_the_log_says_why_a_command_is_cold(end):
    process = start("env HF_HUB_OFFLINE=0 ANOTHER=1 probe sleep")
    end(process)
    begun(process)
    log = Path(os.environ["EXPO_WARM"]).with_name("log").read_text()
    assert "sleep is cold: other ANOTHER, HF_HUB_OFFLINE\n" in log


@pytest.mark.parametrize("answer", [b"", bytes(4)])
def test_a_command_that_is_refused_is_cold(answer, tmp_path, end, monkeypatch):
    """Before there is a worker, or by one that cannot be what the caller is."""
    place = tmp_path / "socket"
    monkeypatch.setenv("EXPO_WARM", str(place))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        process = start("probe sleep")
        end(process)
        client, _ = listener.accept()
        client.send(answer)
        client.close()
    assert not begun(process)["is_warm"]


def test_nothing_is_started_where_commands_have_to_be_cold(expo):
    done = expo("warm", env=os.environ | {"SLURM_JOB_ID": "1"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_a_signal_reaches_the_worker_once(name, end):
    process = start("probe sleep")
    end(process)
    begun(process)
    process.send_signal(getattr(signal, name))
    assert process.stderr.readline() == f"{name}\n".encode()
    process.send_signal(signal.SIGCONT)
    assert process.stderr.readline() == b"SIGCONT\n"


def state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_gone(process: int) -> bool:
    return not Path(f"/proc/{process}").exists() or state(process) == "Z"


def test_stopping_and_going_on(end):
    process = start("probe sleep")
    end(process)
    both = (process.pid, begun(process)["process"])
    process.send_signal(signal.SIGTSTP)
    wait_for(lambda: [state(each) for each in both] == ["T", "T"])
    process.send_signal(signal.SIGCONT)
    wait_for(lambda: "T" not in [state(each) for each in both])


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL, signal.SIGSEGV])
def test_a_command_dies_as_its_worker(number):
    process = start("probe sleep")
    os.kill(begun(process)["process"], number)
    assert process.wait(60) == -number


def test_a_killed_command_writes_no_more(tmp_path):
    """Not after its end is known: a second run of it would be a second writer."""
    for number in range(20):
        written = tmp_path / str(number)
        process = start(f"probe write {written}")
        found = begun(process)
        assert found["is_warm"]
        wait_for(lambda path=written: path.exists() and path.stat().st_size > 1000)
        process.kill()
        process.wait()
        size = written.stat().st_size
        wait_for(lambda worker=found["process"]: is_gone(worker))
        assert written.stat().st_size - size <= 1  # what it was in the middle of


def test_timeout_ends_a_command():
    """Which waits for what nobody writes."""
    command = ["timeout", "5", "expo", "prep-prompts", "-", "--out", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.wait(120) == 124


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("expo --version", 0),
        ("expo", 2),
        ("expo train", 2),
        ("expo score nowhere --reward pickscore", 1),
        ("expo status nowhere", 75),
    ],
)
def test_exit_codes_and_texts(line, code, tmp_path):
    done = run(line, cwd=tmp_path)
    with cold():
        wanted = run(line, cwd=tmp_path)
    assert done.returncode == wanted.returncode == code
    assert (done.stdout, done.stderr) == (wanted.stdout, wanted.stderr)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("threads", [1, 2])
def test_same_bytes_warm_and_cold(threads, world):
    """Every command, which is started cold here too, at each number of threads."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    before = tree_of(world)
    for command in COMMANDS:
        line = shlex.join(["expo", *command.arguments])
        begun = tree_of(world)
        done = run(line, cwd=world, env=environment)
        assert done.returncode == 0, done.stderr
        found = tree_of(world)
        go_back(world, begun)
        with cold():
            unset = {name: value for name, value in environment.items() if name != "EXPO_WARM"}
            assert run(line, cwd=world, env=unset).returncode == 0
        assert differences(tree_of(world), found) == [], command.name
    go_back(world, before)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A package of the entry and the help texts alone, quickly imported, and a server of it."""
    source = Path(__file__).parents[1] / "expo_cli"
    heavy = shutil.ignore_patterns("core", "embedded", "models", "report", "rewards")
    shutil.copytree(source, tmp_path / "package/expo_cli", ignore=heavy)
    stages = tmp_path / "package/expo_cli/stages"
    for path in stages.iterdir():
        if path.name not in ("__init__.py", "warm.py"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "package"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EXPO_WARM", raising=False)
    return tmp_path / "package/expo_cli"


EXPO = f"{shlex.quote(sys.executable)} -m expo_cli"


def test_a_server_ends_with_the_shell_that_started_it(own):
    line = f'eval "$({EXPO} warm)"; {EXPO} --version >&2; stat -c %a "$(dirname "$EXPO_WARM")"; echo "$EXPO_WARM"'
    done = run(line)
    mode, place = done.stdout.split()
    assert (done.returncode, mode) == (0, "700"), done.stderr
    wait_for(lambda: not Path(place).parent.exists())


def test_a_server_ends_when_nothing_asks_for_it(own):
    with warm("--idle-seconds", "1") as place:
        wait_for(lambda: not Path(place).parent.exists())
        assert run(f"{EXPO} --version").returncode == 0


def test_changed_code_is_imported_anew(own):
    with warm():
        assert run(f"{EXPO} --version").stdout == "expo 0.1.0\n"
        (own / "__init__.py").write_text('__version__ = "0.2.0"\n')
        for _ in range(2):
            assert run(f"{EXPO} --version").stdout == "expo 0.2.0\n"


def test_another_copy_of_the_package_is_cold(own, tmp_path, monkeypatch):
    shutil.copytree(own, tmp_path / "other/expo_cli")
    (tmp_path / "other/expo_cli/__init__.py").write_text('__version__ = "0.3.0"\n')
    with warm():
        assert run(f"{EXPO} --version", cwd=tmp_path / "other").stdout == "expo 0.3.0\n"


def test_a_server_that_has_other_threads_forks_nothing(own):
    (own / "stages/threads.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    with warm() as place:
        assert run(f"{EXPO} --version").returncode == 0
        assert "would lose the server's other threads" in (Path(place).parent / "log").read_text()
