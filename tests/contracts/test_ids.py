import hashlib

from hypothesis import given
from hypothesis import strategies as st

from expo_cli.contracts import ids


def test_prompt_id_by_hand():
    # printf 'a cat' | sha256sum | head -c 16
    assert ids.prompt_id("a cat") == hashlib.sha256(b"a cat").hexdigest()[:16] == "51e4674156077982"


def test_digest_by_hand():
    # The first 8 bytes of sha256("sample\x1f0"), without the last bit: what torch takes as a seed.
    first = hashlib.sha256(b"sample\x1f0").digest()[:8]
    assert ids.digest("sample", 0) == int.from_bytes(first, "big") // 2


def test_borders_between_parts_count():
    assert ids.digest("ab", "c") != ids.digest("a", "bc") != ids.digest("abc")


@given(st.lists(st.one_of(st.integers(), st.text(st.characters(exclude_categories=["Cs"])))))
def test_ranges(parts):
    assert 0 <= ids.digest(*parts) < 2**63
    assert 0 <= ids.fraction(*parts) < 1


def test_fraction_never_rounds_up_to_one(monkeypatch):
    monkeypatch.setattr(ids, "digest", lambda *parts: 2**63 - 1)
    assert ids.fraction("anything") < 1


def test_fractions_are_uniform():
    values = [ids.fraction("test", number) for number in range(20_000)]
    for tenth in range(10):
        share = sum(tenth / 10 <= value < (tenth + 1) / 10 for value in values) / len(values)
        assert abs(share - 0.1) < 0.01


def test_every_part_of_a_sample_changes_its_seed():
    seed = ids.sample_seed(0, "p", "main", 1, 0)
    others = [
        ids.sample_seed(1, "p", "main", 1, 0),
        ids.sample_seed(0, "q", "main", 1, 0),
        ids.sample_seed(0, "p", "explore", 1, 0),
        ids.sample_seed(0, "p", "main", 2, 0),
        ids.sample_seed(0, "p", "main", 1, 1),
        ids.pair_seed(0, "p", 0),
    ]
    assert len({seed, *others}) == 7
    assert seed == ids.sample_seed(0, "p", "main", 1, 0)
