import pytest
from hypothesis import given
from hypothesis import strategies as st

from expo_cli.contracts.ids import pair_seed
from expo_cli.core.learning_rate import learning_rate_factor
from expo_cli.core.negative_prompts import draw_negative_prompt, negative_probability
from expo_cli.core.noise import training_noise, uniform_timestep
from expo_cli.core.visits import balanced, drops_caption, visits


def test_linear_negative_prompts_fall_from_all_to_none():
    values = [negative_probability("linear", t, 5) for t in range(1, 6)]
    assert values == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_other_negative_schedules():
    cosine = [negative_probability("cosine", t, 3) for t in (1, 2, 3)]
    assert cosine == pytest.approx([1, 0.5, 0])
    assert [negative_probability("constant", t, 5) for t in (1, 5)] == [1, 1]
    assert negative_probability("none", 0, None) == 0


def test_negative_prompts_come_as_often_as_said():
    drawn = [draw_negative_prompt(["a", "b"], 0.25, 0, f"p{n}", 1) for n in range(4000)]
    share = sum(negative is not None for negative in drawn) / len(drawn)
    assert share == pytest.approx(0.25, abs=0.03)
    assert set(drawn) == {"a", "b", None}


@given(st.integers(0, 3), st.text(min_size=1), st.integers(0, 9))
def test_a_certain_negative_prompt_is_always_drawn(seed, prompt_id, iteration):
    assert draw_negative_prompt(["only"], 1.0, seed, prompt_id, iteration) == "only"
    assert draw_negative_prompt(["only"], 0.0, seed, prompt_id, iteration) is None


def test_learning_rate_warms_up_over_a_quarter_then_stays():
    factors = [learning_rate_factor("constant", step, 8, 0.25) for step in range(8)]
    assert factors == [0.5, 1, 1, 1, 1, 1, 1, 1]


def test_decaying_learning_rates():
    assert learning_rate_factor("linear", 6, 10, 0.2) == pytest.approx(0.5)
    assert learning_rate_factor("cosine", 6, 10, 0.2) == pytest.approx(0.5)


@given(st.integers(1, 40), st.integers(0, 200), st.integers(1, 64))
def test_visits_do_not_depend_on_how_the_stream_is_cut(num_pairs, start, count):
    whole = visits(7, num_pairs, 0, start + count)
    assert visits(7, num_pairs, start, count) == whole[start:]


@given(st.integers(1, 50))
def test_every_epoch_visits_every_pair_once_with_its_own_draw(num_pairs):
    second = visits(0, num_pairs, num_pairs, num_pairs)
    assert sorted(visit.item for visit in second) == list(range(num_pairs))
    assert {visit.draw for visit in second} == {1}


@given(st.integers(1, 10), st.integers(1, 4))
def test_a_bounded_number_of_draws_comes_again_in_another_order(num_pairs, num_draws):
    bounded = visits(0, num_pairs, 0, 100, num_draws)
    assert [visit.item for visit in bounded] == [
        visit.item for visit in visits(0, num_pairs, 0, 100)
    ]
    assert [visit.draw for visit in bounded] == [n // num_pairs % num_draws for n in range(100)]


def test_balanced_visits_by_hand():
    # A share of 0.8: one of every five is of the other class.
    found = [balanced(place, 0.8) for place in range(6)]
    assert found == [(False, 0), (True, 0), (True, 1), (True, 2), (True, 3), (False, 1)]


@given(
    st.floats(0.01, 0.99) | st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9]),
    st.integers(0, 10**6),
    st.integers(1, 300),
)
def test_any_window_of_balanced_visits_has_the_right_share_to_within_one(share, start, count):
    window = [balanced(place, share) for place in range(start, start + count)]
    assert abs(sum(favoured for favoured, _ in window) - share * count) < 1 + 1e-6
    for answer in (True, False):
        numbers = [number for favoured, number in window if favoured == answer]
        if numbers:
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@given(st.floats(0.01, 0.99))
def test_balanced_visits_number_both_classes_from_0(share):
    places = [balanced(place, share) for place in range(200)]
    for answer in (True, False):
        numbers = [number for favoured, number in places if favoured == answer]
        assert numbers == list(range(len(numbers)))


def test_training_noise_is_a_function_of_seed_pair_and_draw():
    noise, timestep = training_noise(pair_seed(0, "pair", 3), (4, 8, 8), uniform_timestep(1000))
    again, same_timestep = training_noise(
        pair_seed(0, "pair", 3), (4, 8, 8), uniform_timestep(1000)
    )
    other, _ = training_noise(pair_seed(0, "pair", 4), (4, 8, 8), uniform_timestep(1000))
    assert noise.equal(again)
    assert timestep == same_timestep
    assert not noise.equal(other)


def test_timesteps_are_uniform():
    timesteps = [
        training_noise(pair_seed(0, f"pair{n}", 0), (1,), uniform_timestep(10))[1]
        for n in range(2000)
    ]
    counts = [timesteps.count(t) for t in range(10)]
    assert min(counts) > 140
    assert max(counts) < 260


def test_captions_drop_as_often_as_said():
    dropped = sum(drops_caption(0, f"pair{n}", 0, 0.2) for n in range(4000))
    assert dropped / 4000 == pytest.approx(0.2, abs=0.03)
