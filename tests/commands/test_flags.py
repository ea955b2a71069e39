"""Flags, TOML and defaults, through commands that only plan (`--dry-run`)."""

import json

import pytest


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("a cat\na dog\n")
    return path


@pytest.fixture
def plan(expo, prompts, tmp_path):
    """The effective settings of prep-prompts with the given TOML and flags."""

    def run(toml: str, *flags: str) -> dict:
        config = tmp_path / "expo.toml"
        config.write_text(toml)
        done = expo(
            *("prep-prompts", prompts, "--out", tmp_path / "out.jsonl", "--dry-run"),
            *("--config", config, *flags),
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["plan"]

    return run


def test_flag_over_file_over_default(plan):
    toml = '[prep-prompts]\nseed = 7\nmax-tokens = 50\nlayout = "txt"\n'
    settings = plan(toml, "--max-tokens", "40")
    assert settings["max_tokens"] == 40
    assert settings["seed"] == 7
    assert settings["layout"] == "txt"
    assert settings["heldout_fraction"] == 0.0


def test_a_zero_on_the_command_line_wins_too(plan):
    toml = "[prep-prompts]\nseed = 7\nheldout_fraction = 0.5\n"
    settings = plan(toml, "--seed", "0", "--heldout-fraction", "0")
    assert (settings["seed"], settings["heldout_fraction"]) == (0, 0.0)


def test_tables_of_other_commands_are_left_to_them(plan):
    assert plan("[train]\nlearning_rate = 1e-5\n[rollout]\nanything = 1\n")["seed"] == 0


def test_no_flag_turns_off_what_the_file_turns_on(expo, prompts, tmp_path):
    (tmp_path / "expo.toml").write_text("[prep-prompts]\ndry_run = true\nquiet = true\n")
    arguments = [
        "prep-prompts",
        prompts,
        "--out",
        tmp_path / "o",
        "--config",
        tmp_path / "expo.toml",
    ]
    expo(*arguments)
    assert not (tmp_path / "o").exists()
    done = expo(*arguments, "--no-dry-run")
    assert (tmp_path / "o").exists()
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("toml", "code", "problem"),
    [
        ("[prep-prompts]\nsed = 1\n", 2, "[prep-prompts] has no key 'sed'; did you mean 'seed'?"),
        ("[prep-promts]\nseed = 1\n", 2, "'prep-promts' is not the table of a command"),
        ("seed = 1\n", 2, "'seed' is not the table of a command"),
        (
            '[prep-prompts]\nseed = "1"\n',
            2,
            "expo.toml: [prep-prompts] seed: Expected `int`, got `str`",
        ),
        (
            "[prep-prompts]\nseed = 1.5\n",
            2,
            "expo.toml: [prep-prompts] seed: Expected `int`, got `float`",
        ),
        (
            '[prep-prompts]\nlayout = "txtt"\n',
            2,
            "expo.toml: [prep-prompts] layout: Invalid enum value 'txtt'",
        ),
        ("[prep-prompts]\nlimit = 0\n", 2, "--limit must be positive, got 0"),
        ("[prep-prompts]\nheldout_fraction = nan\n", 2, "--heldout-fraction must be"),
        ("[prep-prompts\n", 1, "expo.toml: "),
        ("[prep-prompts]\nseed = 1\nseed = 2\n", 1, "expo.toml: "),
    ],
)
def test_faults_of_the_file(toml, code, problem, expo, prompts, tmp_path):
    (tmp_path / "expo.toml").write_text(toml)
    done = expo(
        *("prep-prompts", prompts, "--out", tmp_path / "out.jsonl"),
        *("--config", tmp_path / "expo.toml"),
    )
    assert done.returncode == code
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["train", "p", "--out", "o"], "--init-from is required"),
        (["train", "p", "--out", "o", "--init-from", "x", "--warmup-ratio", "2"], "--warmup-ratio"),
        (["train", "p", "--out", "o", "--init-from", "x", "--learning-rate", "nan"], "finite"),
        (["train", "p", "--out", "o", "--init-from", "x", "--adam-beta2", "1"], "--adam-beta2"),
        (["train", "p", "--out", "o", "--init-from", "x", "--adam-epsilon", "-1"], "positive"),
        (["rollout", "p", "--out", "o", "--policy", "x", "--eta", "1"], "--eta belongs to"),
        (
            ["rollout", "p", "--out", "o", "--policy", "x", "--scheduler", "ddim", "--eta", "2"],
            "--eta must be in [0, 1]",
        ),
        (["rollout", "p", "--out", "o", "--policy", "x", "--explorer", "same"], "contradicts"),
        (
            ["rollout", "p", "--out", "o", "--policy", "x", "--neg-schedule", "linear"],
            "--neg-schedule linear needs --negative-prompts",
        ),
        (["score", "f"], "--reward is required"),
        (["evaluate", "a=b", "--out", "o", "--confidence", "95"], "--confidence must be in (0, 1)"),
        (["make-pairs", "f", "--out", "o", "--min-margin", "-1"], "--min-margin"),
    ],
)
def test_contradictions_are_refused_before_any_work(arguments, problem, expo, tmp_path):
    done = expo(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_repeated_flag_is_a_list(expo, tmp_path):
    (tmp_path / "expo.toml").write_text('[score]\nreward = ["pickscore"]\nlimit = -1\n')
    done = expo("score", "f", "--config", tmp_path / "expo.toml")
    assert "--limit must be positive" in done.stderr
