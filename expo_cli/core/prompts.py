"""When prompts are equal, which are held out, and which are sampled.

All three depend on the prompt alone, not on the rest of the input or its order.
"""

import unicodedata

from expo_cli.contracts.ids import digest, fraction

HELDOUT_SALT = "expo held-out prompts"


# Marks that change the direction of text, and a byte order mark inside it.
UNSEEN = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


def without_controls(text: str) -> str:
    """The text without control characters (NUL, escapes) and UNSEEN; joiners of emoji stay."""
    if text.isprintable():
        return text
    return "".join(
        c for c in text if c.isspace() or (unicodedata.category(c) != "Cc" and c not in UNSEEN)
    )


def normalise(text: str) -> str:
    """Unicode NFC, with white space collapsed to single blanks and stripped."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def identity(prompt: str) -> str:
    """The key by which normalised prompts are equal: they may differ in case, which CLIP ignores."""
    return prompt.lower()


def is_heldout(prompt: str, heldout_fraction: float) -> bool:
    """Whether a normalised prompt is never trained on, whatever the seed.

    A larger fraction holds out the same prompts and more.
    """
    return fraction(HELDOUT_SALT, identity(prompt)) < heldout_fraction


def sample_rank(seed: int, prompt: str) -> int:
    """A sample of N takes the N prompts of lowest rank, so a larger sample contains the smaller ones."""
    return digest("sample of prompts", seed, identity(prompt))
