"""The limits of control groups, from files as Linux writes them."""

from pathlib import Path

import pytest

from expo_cli.cgroups import cpu_quota, memory_limit

VERSION_2 = "31 23 0:28 {mounted} /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw\n"
VERSION_1 = (
    "32 31 0:29 {mounted} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 {mounted} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
)


@pytest.fixture
def system(tmp_path):
    """Write a root folder: the process's groups, the mounts, and the groups' files."""

    def write(groups: str, mounts: str, files: dict[str, str]) -> Path:
        files = files | {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts}
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def test_no_groups_no_limits(tmp_path):
    assert cpu_quota(tmp_path) is None
    assert memory_limit(tmp_path) is None


@pytest.mark.parametrize(
    ("own", "above", "top", "quota"),
    [
        ("max 100000", "max 100000", None, None),
        ("150000 100000", "max 100000", None, 1.5),
        ("400000 100000", "200000 100000", None, 2.0),
        ("100000 50000", "max 100000", "50000 100000", 0.5),
    ],
)
def test_the_smallest_quota_of_all_groups_above(own, above, top, quota, system):
    folder = "sys/fs/cgroup"
    files = {f"{folder}/jobs/cpu.max": above, f"{folder}/jobs/7/cpu.max": own}
    if top is not None:  # a container's own group is the top of what it sees
        files[f"{folder}/cpu.max"] = top
    assert cpu_quota(system("0::/jobs/7\n", VERSION_2.format(mounted="/"), files)) == quota


def test_version_1_says_minus_one_for_no_quota(system):
    group = "sys/fs/cgroup/cpu,cpuacct/jobs"
    files = {
        f"{group}/cpu.cfs_quota_us": "-1\n",
        f"{group}/cpu.cfs_period_us": "100000\n",
        f"{group}/7/cpu.cfs_quota_us": "250000\n",
        f"{group}/7/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/jobs/memory.limit_in_bytes": "8000000\n",
    }
    groups = "4:memory:/jobs\n2:cpu,cpuacct:/jobs/7\n0::/\n"
    root = system(groups, VERSION_1.format(mounted="/"), files)
    assert (cpu_quota(root), memory_limit(root)) == (2.5, 8_000_000)


def test_a_container_that_knows_its_path_but_sees_only_its_group(system):
    files = {
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    }
    root = system("2:cpu,cpuacct:/docker/f00\n", VERSION_1.format(mounted="/docker/f00"), files)
    assert cpu_quota(root) == 3.0


def test_a_group_outside_of_what_is_mounted_has_the_limits_of_the_mount(system):
    files = {"sys/fs/cgroup/memory.max": "4096\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}
    root = system("0::/../other\n", VERSION_2.format(mounted="/docker/f00"), files)
    assert (cpu_quota(root), memory_limit(root)) == (1.0, 4096)
