"""Every command, killed and stopped at a few moments; `python -m tests.faults.kills` takes many."""

from tests.faults.kills import kill_all, summary
from tests.faults.world import COMMANDS


def test_killed_commands_end_with_the_bytes_of_whole_ones(tmp_path):
    tallies = list(kill_all(tmp_path, kills=4, seed=1))
    assert [fault for tally in tallies for fault in tally.faults] == []
    assert len(tallies) == len(COMMANDS)
    # Some random moments come after the end, so not every run that was to be killed was.
    assert sum(tally.counts["kills"] for tally in tallies) >= 2 * len(COMMANDS), summary(tallies)
