"""Every command, killed and stopped at a few moments; `python -m tests.faults.kills` takes many."""

import pytest

from tests.faults.kills import kill_all, summary
from tests.faults.world import COMMANDS


@pytest.mark.parametrize("kills", [2, pytest.param(25, marks=pytest.mark.nightly)])
def test_killed_commands_end_with_the_bytes_of_whole_ones(kills, tmp_path):
    tallies = list(kill_all(tmp_path, kills, seed=1))
    assert [fault for tally in tallies for fault in tally.faults] == []
    assert len(tallies) == len(COMMANDS)
    # Some random moments come after the end, so not every run that was to be killed was.
    kept = sum(tally.counts["kills"] for tally in tallies)
    assert kept >= kills / 2 * len(COMMANDS), summary(tallies)
