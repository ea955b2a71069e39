"""The quickstart's CPU seconds by stage, by hand."""

from tests.benchmarks.quickstart import breakdown

STARTS = {"prep-prompts": 1.0, "rollout": 5.0, "score": 4.0, "train": 6.0}


def test_the_seconds_beyond_a_commands_start_are_those_of_its_stage():
    commands = [
        {"words": ["prep-prompts", "prompts"], "cpu_seconds": 1.5},
        # Half of what is beyond its start is the KL.
        {"words": ["rollout", "heldout", "--kl-to", "base"], "cpu_seconds": 25.0},
        {"words": ["rollout", "heldout"], "cpu_seconds": 8.0},
        {"words": ["rollout", "prompts", "--agent", "main"], "cpu_seconds": 12.0},
        {"words": ["score", "main"], "cpu_seconds": 6.0},
        # Nothing was left to train.
        {"words": ["train", "pairs"], "cpu_seconds": 0.5},
    ]
    assert breakdown(commands, STARTS) == {
        "starts of programs": 1 + 5 + 5 + 5 + 4 + 0.5,
        "rest": 0.5,
        "KL to the base": 10,
        "drawing of held-out prompts": 10 + 3,
        "drawing by the agents": 7,
        "scoring": 2,
        "training": 0,
    }
