"""When two prompts are the same, which are held out, and which a sample takes.

All three depend on the prompt alone, not on what else is in the input or in which order.
"""

import unicodedata

from expo_cli.contracts.ids import digest, fraction

HELDOUT_SALT = "expo held-out prompts"


# Marks that turn the direction of text around, and a byte order mark in its midst.
UNSEEN = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


def without_controls(text: str) -> str:
    """The text without control characters (NUL, escapes) and UNSEEN; what joins emoji stays."""
    if text.isprintable():
        return text
    return "".join(
        c for c in text if c.isspace() or (unicodedata.category(c) != "Cc" and c not in UNSEEN)
    )


def normalise(text: str) -> str:
    """Unicode NFC, each run of white space one blank, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def identity(prompt: str) -> str:
    """What makes two normalised prompts the same one: all but their case, as CLIP lower-cases."""
    return prompt.lower()


def is_heldout(prompt: str, heldout_fraction: float) -> bool:
    """Whether a normalised prompt is never trained on, whatever the seed.

    A larger fraction holds out the same prompts and more.
    """
    return fraction(HELDOUT_SALT, identity(prompt)) < heldout_fraction


def sample_rank(seed: int, prompt: str) -> int:
    """A sample of N takes the N prompts of lowest rank; so smaller samples lie in larger ones."""
    return digest("sample of prompts", seed, identity(prompt))
