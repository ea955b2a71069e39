"""Names and random seeds as functions of what they belong to, so that randomness has no state.

No result depends on the shard, the number of workers, or how often a run was interrupted.
"""

import hashlib


def digest(*parts: object) -> int:
    """63 bits of sha256 over the parts, their borders kept apart."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def fraction(*parts: object) -> float:
    """A number in [0, 1), uniform over its parts."""
    return (digest(*parts) >> 10) / 2**53


def bytes_digest(content: bytes) -> str:
    """What a record says of a file: the first 16 hexadecimal digits of its sha256."""
    return hashlib.sha256(content).hexdigest()[:16]


def prompt_id(prompt: str) -> str:
    """16 hexadecimal digits of the text's sha256: the same prompt has the same id everywhere."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def sample_id(prompt_id: str, agent: str, iteration: int, index: int) -> str:
    return f"{prompt_id}-{agent}-{iteration}-{index}"


def sample_seed(seed: int, prompt_id: str, agent: str, iteration: int, index: int) -> int:
    """The seed of a sample's noise, the first and that of every step."""
    return digest("sample", seed, prompt_id, agent, iteration, index)


def candidate_seed(seed: int, step: int, candidate: int) -> int:
    """The seed of a candidate's noise at a step of the sample that has this seed."""
    return digest("candidate", seed, step, candidate)


def continued_candidate(seed: int, step: int, num_candidates: int) -> int:
    """The candidate, uniformly any of them, that the sample of this seed goes on from."""
    return digest("continued", seed, step) % num_candidates


def pair_id(winner: str, loser: str, iteration: int) -> str:
    """16 hexadecimal digits of the two samples' ids and the iteration."""
    return f"{digest('pair-id', winner, loser, iteration):016x}"


def pair_seed(seed: int, pair_id: str, draw: int) -> int:
    """The seed of a pair's training noise and timestep at its `draw`-th visit."""
    return digest("pair", seed, pair_id, draw)
