"""What a launcher (accelerate, torchrun) tells the processes that it started."""

import os


def num_launched() -> int:
    """How many processes train together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one of them that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"
