import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from expo_cli.config import EvaluateConfig, RunOptions
from expo_cli.contracts import jsonl
from expo_cli.contracts.ids import prompt_id, sample_id
from expo_cli.contracts.records import Sample
from expo_cli.contracts.results import EvaluatedSample, Results
from expo_cli.contracts.rollouts import embeddings_path, reward_run_name, score_path
from expo_cli.contracts.shards import part_path
from expo_cli.errors import ExpoError
from expo_cli.report.wording import reward_settings
from expo_cli.stages.evaluate.run import evaluate_policies
from tests.scored import noise, prompt_text, write_scored

QUIET = RunOptions(quiet=True)
ROLES = {"training_reward": "pick", "heldout_reward": "hps"}


def scorers(pick: float = 0.0, hps: float = 0.0) -> dict:
    """Prompts differ much, images of a prompt less, and `pick` and `hps` are added to all."""
    return {
        "pick": lambda folder, n, i: 20 + noise("p", n) + 0.3 * noise("pick", folder, n, i) + pick,
        "hps": lambda folder, n, i: (
            0.3 + noise("h", n) / 50 + noise("hps", folder, n, i) / 99 + hps
        ),
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """`base` and `it1`, which scores 0.5 more by pick and the same by hps; no images."""
    root = tmp_path_factory.mktemp("two")
    write_scored(root / "base", rewards=scorers(), num_prompts=70)
    write_scored(root / "it1", rewards=scorers(pick=0.5), num_prompts=70, kl=3.0)
    return root


def evaluate(root: Path, *labels: str, out: str = "report", **settings) -> Results:
    """Evaluate the folders of those names, and read back what was written."""
    texts = [f"{label}={root / label}" for label in labels]
    config = EvaluateConfig(**{"num_bootstrap": 500} | settings)
    evaluate_policies(texts, root / out, config, QUIET)
    return msgspec.json.decode((root / out / "results.json").read_bytes(), type=Results)


def write_scores(folder: Path, reward: str, values: dict[str, float], part: int = 0) -> None:
    """Replace the scores of a part."""
    path = score_path(folder / "scores", part, reward)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["score"] = line["raw"] = values.get(line["sample_id"], line["score"])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_planted_difference_is_found_and_a_null_one_is_not(two):
    result = evaluate(two, "base", "it1", **ROLES).policy("it1").rewards
    assert result["pick"].difference.low > 0.3
    assert result["pick"].difference.high < 0.7
    assert result["pick"].win_rate.low > 0.5
    assert result["hps"].difference.low < 0 < result["hps"].difference.high
    assert result["hps"].win_rate.low < 0.5 < result["hps"].win_rate.high


def test_figures_by_hand(tmp_path):
    """Two prompts of two images each; the first policy is the baseline."""
    by_hand = {"base": {0: (1.0, 2.0), 1: (5.0, 5.0)}, "it1": {0: (2.0, 2.0), 1: (4.0, 9.0)}}
    for name in by_hand:
        reward = {"pick": lambda folder, n, i: by_hand[folder][n][i]}
        write_scored(tmp_path / name, rewards=reward, num_prompts=2, num_images=2)
    results = evaluate(tmp_path, "base", "it1")
    base, it1 = (results.policy(name).rewards["pick"] for name in by_hand)
    assert (base.mean.value, it1.mean.value) == (3.25, 4.25)  # (1.5 + 5) / 2, (2 + 6.5) / 2
    assert it1.difference.value == 1.0
    # Prompt 0: win and tie, 0.75; prompt 1: loss and win, 0.5.
    assert it1.win_rate.value == 0.625
    noto = results.policy("it1").categories["noto"]["pick"]
    assert (noto.num_prompts, noto.difference.value, noto.win_rate.value) == (1, 0.5, 0.75)


def flagging(*bad: tuple[int, int], black: bool = False):
    """Flags the images of those prompt numbers and indices."""

    def change(number, sample):
        if (number, sample.index) not in bad:
            return sample
        return replace(sample, kl=None, checks=replace(sample.checks, nan=not black, black=black))

    return change


def without_scores(folder: Path, reward: str) -> None:
    """Remove the scores of flagged samples, as `expo score` writes none."""
    bad = {s.sample_id for s in jsonl.read(part_path(folder, 0), Sample) if s.checks.flagged}
    path = score_path(folder / "scores", 0, reward)
    lines = [
        line for line in path.read_text().splitlines() if json.loads(line)["sample_id"] not in bad
    ]
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize("scored", [True, False])
def test_flagged_images_are_in_no_mean_and_lose(scored, tmp_path):
    """Three prompts of two images; a score that a flagged one has is not looked at."""
    by_hand = {
        "base": {0: (1.0, 99.0), 1: (5.0, 5.0), 2: (2.0, 2.0)},
        "it1": {0: (2.0, 3.0), 1: (-9.0, 9.0), 2: (0.0, 1.0)},
    }
    bad = {"base": [(0, 1), (2, 0)], "it1": [(1, 0), (2, 0)]}
    for name in by_hand:
        reward = {"pick": lambda folder, n, i: by_hand[folder][n][i]}
        write_scored(
            tmp_path / name,
            rewards=reward,
            num_prompts=3,
            kl=2.0,
            saturation=0.4 if name == "base" else 0.5,
            change=flagging(*bad[name], black=name == "base"),
        )
        if not scored:
            without_scores(tmp_path / name, "pick")
    results = evaluate(tmp_path, "base", "it1")
    base, it1 = (results.policy(name).rewards["pick"] for name in by_hand)
    assert base.mean.value == pytest.approx((1 + 5 + 2) / 3)
    assert it1.mean.value == pytest.approx((2.5 + 9 + 1) / 3)
    # Pairs of good images: prompt 0 has 2 - 1, prompt 1 has 9 - 5, prompt 2 has 1 - 2.
    assert it1.difference.value == pytest.approx((1 + 4 - 1) / 3)
    # Won and won; lost and won; a tie of two flagged ones and lost.
    assert it1.win_rate.value == pytest.approx((1 + 0.5 + 0.25) / 3)
    assert it1.win_rate.low is not None
    assert [policy.num_flagged for policy in results.policies] == [2, 2]
    assert results.policy("it1").kl.nats.value == pytest.approx(2.0, rel=0.2)
    warned = [alarm for alarm in results.alarms if "2 of 6 images (33.3%)" in alarm.text]
    assert [(alarm.level, alarm.policy) for alarm in warned] == [
        ("warning", "base"),
        ("warning", "it1"),
    ]
    assert any("of 6 per policy: 2 of base, 2 of it1" in note for note in results.notes)
    samples = list(jsonl.read(tmp_path / "report" / "samples.jsonl", EvaluatedSample))
    assert {bool(sample.scores) is not sample.flagged for sample in samples} == {True}
    assert sum(sample.flagged for sample in samples) == 4


def test_up_to_one_percent_of_flagged_images_is_a_note(tmp_path):
    for name, bad in (("base", []), ("it1", [(3, 0)])):
        write_scored(
            tmp_path / name, rewards=scorers(), num_prompts=50, images=True, change=flagging(*bad)
        )
    results = evaluate(tmp_path, "base", "it1", num_grid_prompts=50)
    assert not [alarm for alarm in results.alarms if "left out" in alarm.text]
    assert any("of 100 per policy: 1 of it1" in note for note in results.notes)
    assert "NaN or black</figcaption>" in (tmp_path / "report" / "report.html").read_text()


def test_a_prompt_or_a_category_without_a_good_image_has_no_figures(tmp_path):
    """Of 4 categories prompts 0 and 4 are noto, 1 and 5 flat."""
    embedding = {"rewards": scorers(), "num_prompts": 8, "embeddings": True, "images": True}
    write_scored(tmp_path / "base", **embedding, change=flagging((1, 0), (1, 1), (2, 0)))
    noto = [(number, index) for number in (0, 4) for index in (0, 1)]
    write_scored(tmp_path / "it1", **embedding, change=flagging(*noto))
    results = evaluate(tmp_path, "base", "it1")
    for policy in results.policies:
        assert sorted(policy.categories) == ["flat", "fluent", "twemoji"]
        assert policy.diversity.keys() == {"pick", "hps"}
    flat = results.policy("it1").categories["flat"]["pick"]
    assert (flat.num_prompts, flat.difference.low) == (2, None)
    assert any("No figures for category 'noto'" in note for note in results.notes)


def test_policies_without_a_good_image_to_compare_are_refused(tmp_path):
    every = [(number, index) for number in range(3) for index in (0, 1)]
    for name, bad in (("good", []), ("bad", every), ("first", every[::2]), ("second", every[1::2])):
        write_scored(tmp_path / name, rewards=scorers(), num_prompts=3, change=flagging(*bad))
    with pytest.raises(ExpoError, match="bad: nothing to evaluate: all images are NaN or black$"):
        evaluate(tmp_path, "good", "bad")
    with pytest.raises(ExpoError, match="second: .*or those of first with the same seed"):
        evaluate(tmp_path, "first", "second")
    # Neither has a change to the other, which is no reason to stop.
    assert evaluate(tmp_path, "good", "first", "second", **ROLES).policy("second").change == {}


def test_a_policy_against_itself_ties_everywhere(two):
    texts = [f"base={two / 'base'}", f"again={two / 'base'}"]
    evaluate_policies(texts, two / "itself", EvaluateConfig(num_bootstrap=50), QUIET)
    results = msgspec.json.decode((two / "itself" / "results.json").read_bytes(), type=Results)
    figure = results.policy("again").rewards["pick"]
    assert (figure.difference.value, figure.win_rate.value) == (0.0, 0.5)
    assert (figure.win_rate.low, figure.win_rate.high) == (0.5, 0.5)


def test_kl_is_per_sample_per_dimension_and_per_step(two):
    results = evaluate(two, "base", "it1")
    assert results.policy("base").kl is None
    kl = results.policy("it1").kl
    assert kl.nats.value == pytest.approx(3.0, rel=0.05)
    assert kl.num_dimensions == 4 * 8 * 8
    assert kl.per_dimension == pytest.approx(kl.nats.value / 256)
    assert kl.per_step[-1] == 0
    assert sum(kl.per_step) == pytest.approx(kl.nats.value)
    assert any("left out" in note for note in results.notes)


def test_diversity_by_hand(tmp_path):
    from safetensors.numpy import load_file, save_file

    for name in ("base", "it1"):
        folder = write_scored(
            tmp_path / name, rewards=scorers(), num_prompts=3, num_images=2, embeddings=True
        )
        path = embeddings_path(folder / "scores", 0, "pick")
        # One pair of images per prompt, at right angles for base, opposite for it1.
        second = [0.0, 2.0] if name == "base" else [-2.0, 0.0]
        vectors = {
            key: np.array([1.0, 0.0] if key.endswith("-0") else second, dtype=np.float16)
            for key in load_file(path)
        }
        save_file(vectors, path)
    results = evaluate(tmp_path, "base", "it1")
    assert results.policy("base").diversity["pick"].mean.value == pytest.approx(1.0)
    assert results.policy("it1").diversity["pick"].difference.value == pytest.approx(1.0)


def test_no_diversity_is_said(two):
    results = evaluate(two, "base", "it1")
    assert results.policy("it1").diversity == {}
    assert "No diversity: no image embeddings." in results.notes


def test_over_saturation_is_alarmed(tmp_path):
    write_scored(tmp_path / "base", rewards=scorers(), saturation=0.4)
    write_scored(tmp_path / "it1", rewards=scorers(), saturation=0.6)
    results = evaluate(tmp_path, "base", "it1")
    assert [alarm.policy for alarm in results.alarms] == ["it1"]
    assert "saturation" in results.alarms[0].text
    assert results.policy("it1").drift["saturation"].difference.value == pytest.approx(0.2)


def test_same_inputs_same_bytes(two):
    evaluate(two, "base", "it1", out="first", **ROLES)
    evaluate(two, "base", "it1", out="second", **ROLES)
    names = ["results.json", "samples.jsonl", "report.html"]
    names += [f"plots/{path.name}" for path in (two / "first" / "plots").iterdir()]
    assert len(names) > 5
    for name in names:
        assert (two / "first" / name).read_bytes() == (two / "second" / name).read_bytes(), name


def test_another_part_size_and_order_give_the_same_figures(tmp_path):
    """Rewrite it1 in one part, backwards: only what is in the lines counts."""
    for name in ("base", "it1"):
        write_scored(tmp_path / name, rewards=scorers(), num_prompts=70)
    expected = evaluate(tmp_path, "base", "it1").policies
    folder = tmp_path / "it1"
    for paths in (
        [part_path(folder, part) for part in (0, 1)],
        *([score_path(folder / "scores", part, r) for part in (0, 1)] for r in ("pick", "hps")),
    ):
        lines = [line for path in paths for line in path.read_text().splitlines(keepends=True)]
        paths[0].write_text("".join(reversed(lines)))
        paths[1].unlink()
    run = json.loads((folder / "run.json").read_text())
    run["plan"]["num_parts"] = 1
    (folder / "run.json").write_text(json.dumps(run))
    assert evaluate(tmp_path, "base", "it1").policies == expected


def test_samples_file_has_every_sample_of_every_policy(two):
    evaluate(two, "base", "it1")
    samples = list(jsonl.read(two / "report" / "samples.jsonl", EvaluatedSample))
    assert len(samples) == 2 * 140
    assert {sample.label for sample in samples} == {"base", "it1"}
    assert samples[0].scores.keys() == {"pick", "hps"}


def test_limit_takes_the_first_prompts(two):
    results = evaluate(two, "base", "it1", limit=5)
    assert (results.num_prompts, results.num_samples) == (5, 10)
    assert any("too narrow" in note for note in results.notes)


def test_dry_run_touches_nothing(two):
    texts = [f"base={two / 'base'}"]
    result = evaluate_policies(texts, two / "dry", EvaluateConfig(), RunOptions(dry_run=True))
    assert result.results["rewards"] == ["hps", "pick"]
    assert not (two / "dry").exists()


def drawn_by(**settings):
    return lambda number, sample: replace(sample, **settings)


def test_settings_of_each_policy_and_reward_are_kept(tmp_path):
    for name, negative in (("base", ""), ("it1", "blurry")):
        write_scored(
            tmp_path / name,
            rewards=scorers(),
            num_prompts=4,
            seed=7,
            change=drawn_by(negative_prompt=negative, eta=0.5, height=48),
        )
    results = evaluate(tmp_path, "base", "it1")
    assert results.num_images_per_prompt == 2
    for policy in results.policies:
        [way] = policy.sampling
        assert (policy.seed, way.scheduler, way.num_inference_steps) == (7, "ddpm", 20)
        assert (way.guidance_scale, way.eta, way.width, way.height) == (4.0, 0.5, 64, 48)
        assert way.num_samples == 8
        assert (way.negative_prompts is not None) == (policy.label == "it1")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "ddpm, 20 steps, guidance 4, eta 0.5, 64x48, seed 7" in page
    assert "ddpm, 20 steps, guidance 4, eta 0.5, negative prompts, 64x48, seed 7" in page
    assert "2 images per prompt" in page
    assert "<dt>pick</dt><dd>pick</dd>" in page  # the spec that these scores are made with


def test_what_a_reward_is_in_a_line():
    plan = {"spec": "hpsv2", "version": "2.1", "antialias": False, "dtype": "fp32"}
    line = "hpsv2, version 2.1, antialias False, dtype fp32, weights 0123456789ab"
    assert reward_settings(plan | {"weights": "0123456789abcdef"}) == line


@pytest.mark.parametrize(
    ("settings", "warning"),
    [
        (
            {"scheduler": "ddim", "num_inference_steps": 50, "eta": 1.0},
            "drawn with scheduler ddim instead of ddpm, num inference steps 50 instead of 20, "
            "eta 1.0 instead of 0.0: differences to base are not due to the weights alone",
        ),
        (
            {"guidance_scale": 7.5, "width": 128},
            "drawn with guidance scale 7.5 instead of 4.0, width 128 instead of 64: ",
        ),
        ({"negative_prompt": "ugly"}, "drawn with other negative prompts: "),
    ],
)
def test_policies_drawn_with_other_settings_are_compared_with_a_warning(
    settings, warning, expo, tmp_path
):
    write_scored(tmp_path / "base", rewards=scorers(), num_prompts=4)
    write_scored(tmp_path / "same", rewards=scorers(), num_prompts=4)
    write_scored(
        tmp_path / "it1", rewards=scorers(pick=1.0), num_prompts=4, change=drawn_by(**settings)
    )
    finished = expo(
        *("evaluate", *(f"{name}={tmp_path / name}" for name in ("base", "same", "it1"))),
        *("--out", tmp_path / "report", "--num-bootstrap", 50),
    )
    assert finished.returncode == 0, finished.stderr
    results = msgspec.json.decode((tmp_path / "report/results.json").read_bytes(), type=Results)
    [alarm] = [alarm for alarm in results.alarms if "drawn with" in alarm.text]
    assert (alarm.level, alarm.policy) == ("warning", "it1")
    assert alarm.text.startswith(warning)
    assert f"warning: it1: {warning}" in finished.stderr
    assert "base: ddpm, 20 steps, guidance 4, 64x64, seed 0, 2 images per prompt" in finished.stderr
    assert warning.replace("'", "&#39;") in (tmp_path / "report" / "report.html").read_text()


def test_samples_drawn_in_several_ways_are_told_apart(tmp_path):
    write_scored(tmp_path / "base", rewards=scorers(), num_prompts=4)
    write_scored(
        tmp_path / "it1",
        rewards=scorers(),
        num_prompts=4,
        change=lambda number, sample: replace(sample, guidance_scale=4.0 + (number == 3)),
    )
    results = evaluate(tmp_path, "base", "it1")
    ways = [(way.guidance_scale, way.num_samples) for way in results.policy("it1").sampling]
    assert ways == [(4.0, 6), (5.0, 2)]
    assert results.alarms[0].text.startswith("drawn with other settings for some samples")


class References(HTMLParser):
    """Everything a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.urls += [value for name, value in attrs if name in ("src", "href", "srcset")]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    """The report of a world whose prompts want to be HTML and terminal escapes."""
    root = tmp_path_factory.mktemp("hostile")
    text = '<script>alert(1)</script> {{ 7 * 7 }} "\x1b[31m" & <img src=http://x.org/a.png>'
    for name in ("base", "it1"):
        write_scored(
            root / name,
            rewards=scorers(pick=0.5 if name == "it1" else 0.0),
            num_prompts=8,
            images=True,
            kl=1.0,
            prompt=lambda number: f"{text} {number}",
        )
    evaluate(root, "base", "it1", title="<b>title</b>", **ROLES)
    return (root / "report" / "report.html").read_text()


def test_prompts_are_text_in_the_report(page):
    assert "&lt;script&gt;alert(1)&lt;/script&gt; {{ 7 * 7 }}" in page
    assert "&lt;b&gt;title&lt;/b&gt;" in page
    assert "\x1b" not in page
    assert "\\x1b[31m" in page
    parsed = References()
    parsed.feed(page)
    assert not parsed.tags & {"script", "iframe", "object", "link"}


def test_the_report_needs_nothing_else(page):
    parsed = References()
    parsed.feed(page)
    assert len(parsed.urls) > 16
    assert all(url.startswith("data:image/") for url in parsed.urls)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    assert "&gt;" not in style  # escaped as if it were text, CSS would not work


def test_without_images_the_report_says_so(two):
    evaluate(two, "base", "it1")
    page = (two / "report" / "report.html").read_text()
    assert "The rollouts wrote no images" in page


@pytest.mark.filterwarnings("error")
def test_one_prompt_has_no_spread_to_draw_drift_by(two):
    results = evaluate(two, "base", "it1", out="one", limit=1)
    assert {drift.shift for drift in results.policy("it1").drift.values()} == {None}
    assert not list((two / "one" / "plots").glob("drift*"))


def test_large_images_are_embedded_small(tmp_path):
    folder = write_scored(tmp_path / "base", rewards=scorers(), num_prompts=2, images=True)
    for path in (folder / "images").iterdir():
        pixels = np.random.default_rng(0).integers(256, size=(512, 512, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    evaluate(tmp_path, "base")
    assert (tmp_path / "report" / "report.html").stat().st_size < 200_000


def refusal(expo, *arguments) -> tuple[int, str]:
    finished = expo("evaluate", *arguments, "--quiet")
    assert finished.stdout == ""
    assert finished.stderr.count("\n") == 1, finished.stderr
    return finished.returncode, finished.stderr


def test_command_prints_path_and_table(expo, two):
    finished = expo(
        *("evaluate", f"base={two / 'base'}", f"it1={two / 'it1'}", "--out", two / "command"),
        *("--training-reward", "pick", "--heldout-reward", "hps", "--num-bootstrap", 200),
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == f"{two / 'command' / 'report.html'}\n"
    assert "pick (training)" in finished.stderr
    assert "Against base, it1 raises pick by 0." in finished.stderr


def test_json_is_the_results(expo, two):
    finished = expo("evaluate", f"base={two / 'base'}", "--out", two / "json", "--json", "--quiet")
    printed = json.loads(finished.stdout)
    assert printed["results"] == json.loads((two / "json" / "results.json").read_text())


def test_wrong_labels_are_usage_errors(expo, two):
    base, it1 = f"base={two / 'base'}", f"it1={two / 'it1'}"
    out = ("--out", two / "no")
    assert refusal(expo, base, it1, "--baseline", "bas", *out) == (
        2,
        "expo: --baseline: no policy 'bas'; did you mean 'base'?\n",
    )
    assert refusal(expo, base, base, *out) == (2, "expo: the label 'base' is given twice\n")
    assert refusal(expo, two / "base", *out)[0] == 2
    code, text = refusal(expo, base, "--heldout-reward", "hsp", *out)
    assert (code, text) == (2, "expo: --heldout-reward: no scores by 'hsp'; did you mean 'hps'?\n")
    code, text = refusal(expo, base, "--heldout-reward", "hps", "--training-reward", "hps", *out)
    assert code == 2
    assert "not held out" in text


def test_the_output_of_another_command_is_not_overwritten(expo, two):
    before = (two / "base" / "run.json").read_bytes()
    code, text = refusal(expo, f"base={two / 'base'}", "--out", two / "base")
    assert code == 2
    assert "is also a policy's rollout" in text
    code, text = refusal(expo, f"base={two / 'base'}", "--out", two / "it1")
    assert code == 2
    assert "is the output of `expo rollout`" in text
    assert (two / "base" / "run.json").read_bytes() == before


def test_rollouts_that_do_not_compare_are_refused(expo, tmp_path):
    write_scored(tmp_path / "base", rewards=scorers(), num_prompts=4)
    others = {
        "fewer": ({"num_prompts": 3}, "fewer: has no sample prompt000003-main-0-0, which base has"),
        "reseeded": ({"seed": 1}, "has seed="),
        "worded": ({"prompt": str}, "has prompt='0', in base it is 'noto style: woman"),
    }
    for name, (settings, message) in others.items():
        write_scored(tmp_path / name, rewards=scorers(), **{"num_prompts": 4} | settings)
        code, text = refusal(
            expo,
            *(f"base={tmp_path / 'base'}", f"{name}={tmp_path / name}", "--out", tmp_path / "out"),
        )
        assert code == 1
        assert message in text
    assert not (tmp_path / "out").exists()


def test_missing_scores_are_named_with_the_remedy(expo, tmp_path):
    base = write_scored(tmp_path / "base", rewards=scorers(), num_prompts=70)
    fewer = {"pick": scorers()["pick"]}
    other = write_scored(tmp_path / "other", rewards=fewer, num_prompts=70)
    arguments = (f"base={base}", f"other={other}", "--out", tmp_path / "out")
    code, text = refusal(expo, *arguments)
    assert code == 1
    assert f"{other}/scores: no scores by 'hps', which base has" in text
    score_path(base / "scores", 1, "hps").unlink()
    code, text = refusal(expo, *arguments)
    assert code == 1
    assert "1 of 2 parts are missing (1)" in text
    bare = tmp_path / "bare"
    write_scored(bare, rewards={})
    code, text = refusal(expo, f"bare={bare}", "--out", tmp_path / "out")
    assert code == 1
    assert "no scores; run `expo score" in text


def test_scores_by_other_weights_are_refused(expo, tmp_path):
    for name in ("base", "it1"):
        write_scored(tmp_path / name, rewards=scorers(), num_prompts=4)
    path = tmp_path / "it1" / "scores" / reward_run_name("pick")
    run = json.loads(path.read_text())
    run["plan"]["spec"] = "pickscore:model=other"
    path.write_text(json.dumps(run))
    code, text = refusal(
        expo, f"a={tmp_path / 'base'}", f"b={tmp_path / 'it1'}", "--out", tmp_path / "out"
    )
    assert code == 1
    assert "pick was made with spec='pickscore:model=other'" in text


def test_a_score_that_is_not_a_number_is_named_by_file_and_line(expo, tmp_path):
    folder = write_scored(tmp_path / "base", rewards=scorers(), num_prompts=4)
    path = score_path(folder / "scores", 0, "pick")
    lines = path.read_text().splitlines()
    lines[2] = lines[2].replace('"score":', '"score":null,"old":')
    path.write_text("\n".join(lines))
    code, text = refusal(expo, f"base={folder}", "--out", tmp_path / "out")
    assert code == 1
    assert f"{path}:3: " in text


def test_an_image_outside_its_rollout_is_refused(expo, tmp_path):
    folder = write_scored(tmp_path / "base", rewards=scorers(), num_prompts=4, images=True)
    path = part_path(folder, 0)
    path.write_text(path.read_text().replace('"images/', '"../images/'))
    code, text = refusal(expo, f"base={folder}", "--out", tmp_path / "out")
    assert code == 1
    assert "leaves the folder" in text


def test_evaluate_does_not_need_torch(two):
    import subprocess
    import sys

    program = (
        "import sys; from expo_cli.config import *; from expo_cli.stages.evaluate.run import *; "
        "evaluate_policies([sys.argv[1]], Path(sys.argv[2]), EvaluateConfig(num_bootstrap=50), "
        "RunOptions(quiet=True)); assert 'torch' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", program, f"base={two / 'base'}", str(two / "light")], check=True
    )


STYLES = ("photo", "anime", "concept-art", "paintings")


def as_in_a_benchmark(number: int, sample: Sample) -> Sample:
    """Twenty prompts of each style; ids as `prep-prompts` makes them, in no order."""
    name = prompt_id(sample.prompt)
    return replace(
        sample,
        prompt_id=name,
        sample_id=sample_id(name, "main", 0, sample.index),
        category=STYLES[number // 20],
    )


def as_the_package_does(scores: list[float], group: int) -> tuple[float, float]:
    """What hpsv2's evaluate_benchmark prints of a style: mean and std of means of `group` images."""
    means = [np.mean(scores[i : i + group]) for i in range(0, len(scores), group)]
    return np.mean(means), np.std(means)


def test_the_hps_benchmark_is_added_up_as_the_hpsv2_package_does(expo, tmp_path):
    def score(folder: str, number: int, index: int) -> float:
        return 25 + noise("h", number) + number / 50 + (folder == "it1")

    for name in ("base", "it1"):
        write_scored(
            tmp_path / name,
            rewards={"hps": score},
            num_prompts=80,
            num_images=1,
            change=as_in_a_benchmark,
        )
    finished = expo(
        *("evaluate", f"base={tmp_path / 'base'}", f"it1={tmp_path / 'it1'}"),
        *("--out", tmp_path / "report", "--protocol", "hps-benchmark"),
    )
    assert finished.returncode == 0, finished.stderr
    results = msgspec.json.decode((tmp_path / "report/results.json").read_bytes(), type=Results)
    page = (tmp_path / "report" / "report.html").read_text()
    for name in ("base", "it1"):
        drawn = [score(name, number, 0) for number in range(80)]
        for number, style in enumerate(STYLES):
            mean, std = as_the_package_does(drawn[20 * number : 20 * (number + 1)], 2)
            figure = results.policy(name).categories[style]["hps"]
            assert (figure.mean.value, figure.group_std) == pytest.approx((mean, std), abs=1e-9)
            assert f"{mean:.2f} ± {std:.4f}" in finished.stderr
            assert f"{mean:.2f} ± {std:.4f}" in page
        assert results.policy(name).rewards["hps"].mean.value == pytest.approx(np.mean(drawn))
    # Groups in the order of the ids have another deviation.
    by_id = sorted(range(20), key=lambda number: prompt_id(prompt_text(number)))
    deviation = results.policy("base").categories["photo"]["hps"].group_std
    assert as_the_package_does([score("base", n, 0) for n in by_id], 2)[1] != pytest.approx(
        deviation, abs=1e-3
    )
    assert "The HPS benchmark has 3200 prompts, these figures are from 80." in results.notes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_prompts": 80, "num_images": 2}, "one image per prompt, not 160 of 80"),
        ({"num_prompts": 84, "num_images": 1}, "has 21 images, not a multiple of ten"),
        ({"num_prompts": 79, "num_images": 1}, "'fluent' has 19 images, not the 20 of another"),
    ],
)
def test_samples_that_are_not_the_hps_benchmarks_are_refused(settings, message, tmp_path):
    write_scored(tmp_path / "base", rewards=scorers(), **settings)
    with pytest.raises(ExpoError, match=message):
        evaluate(tmp_path, "base", protocol="hps-benchmark")
    assert not (tmp_path / "report" / "results.json").exists()
