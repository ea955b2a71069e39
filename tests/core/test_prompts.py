import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expo_cli.core.prompts import identity, is_heldout, normalise, sample_rank

PROMPTS = [f"a photo of cat number {number}" for number in range(20_000)]


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  a\t cat\r\n", "a cat"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\u00a0cat\u2003here", "a cat here"),
        ("\u3000\n", ""),
        ("A Cat", "A Cat"),
    ],
)
def test_normalise(text, normal):
    assert normalise(text) == normal


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)


def test_case_makes_no_other_prompt():
    assert identity("A Cat") == identity("a cat")
    assert is_heldout("A Cat", 0.5) == is_heldout("a cat", 0.5)
    assert sample_rank(0, "A Cat") == sample_rank(0, "a cat")


def test_the_share_of_held_out_prompts_is_the_fraction():
    share = sum(is_heldout(prompt, 0.1) for prompt in PROMPTS) / len(PROMPTS)
    # 20,000 coin tosses of probability 0.1: standard deviation 0.0021.
    assert share == pytest.approx(0.1, abs=0.01)
    assert not any(is_heldout(prompt, 0.0) for prompt in PROMPTS)


def test_a_larger_fraction_keeps_what_was_held_out():
    for prompt in PROMPTS[:1000]:
        assert is_heldout(prompt, 0.3) or not is_heldout(prompt, 0.2)


def test_another_seed_is_another_sample():
    first, second = (
        set(sorted(PROMPTS, key=lambda prompt: sample_rank(seed, prompt))[:2000]) for seed in (0, 1)
    )
    # Two independent tenths share a tenth of themselves: 200 of 2,000, standard deviation 13.
    assert 140 < len(first & second) < 260
