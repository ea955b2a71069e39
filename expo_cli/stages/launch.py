"""What a launcher (accelerate, torchrun) tells the processes that it started."""

import os


def num_launched() -> int:
    """How many processes train together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))
