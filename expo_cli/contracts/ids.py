"""Ids and random seeds as pure functions, so that randomness has no state.

No result depends on the shard, the number of workers or the number of interruptions.
"""

import hashlib


def digest(*parts: object) -> int:
    """63 bits of sha256 over the parts; ("ab", "c") and ("a", "bc") differ."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def fraction(*parts: object) -> float:
    """A pseudo-random number in [0, 1), a hash of the parts."""
    return (digest(*parts) >> 10) / 2**53


def bytes_digest(content: bytes) -> str:
    """The digest of a file in a record: the first 16 hexadecimal digits of its sha256."""
    return hashlib.sha256(content).hexdigest()[:16]


def prompt_id(prompt: str) -> str:
    """16 hexadecimal digits of the text's sha256: the same prompt has the same id everywhere."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def sample_id(prompt_id: str, agent: str, iteration: int, index: int) -> str:
    return f"{prompt_id}-{agent}-{iteration}-{index}"


def sample_seed(seed: int, prompt_id: str, agent: str, iteration: int, index: int) -> int:
    """The seed of a sample's noise, both initial and at every step."""
    return digest("sample", seed, prompt_id, agent, iteration, index)


def candidate_seed(seed: int, step: int, candidate: int) -> int:
    """The seed of a candidate's noise at a step, for the sample with this seed."""
    return digest("candidate", seed, step, candidate)


def continued_candidate(seed: int, step: int, num_candidates: int) -> int:
    """The candidate from which the sample with this seed continues, uniformly random."""
    return digest("continued", seed, step) % num_candidates


def pair_id(winner: str, loser: str, iteration: int) -> str:
    """16 hexadecimal digits of the two samples' ids and the iteration."""
    return f"{digest('pair-id', winner, loser, iteration):016x}"


def pair_seed(seed: int, noise_id: str, draw: int) -> int:
    """The seed of training noise and timestep, at the `draw`-th visit, of what shares a `noise_id`."""
    return digest("pair", seed, noise_id, draw)
