"""The quickstart, with an accident on the way."""

from tests.recipes.toy import results, run


def test_the_quickstart_ends_with_the_same_numbers_after_an_interruption(tmp_path):
    settings = {"ITERATIONS": 1, "PROMPTS": 4, "HELDOUT_PROMPTS": 4, "STEPS": 2}
    out = tmp_path / "out"
    first = run("quickstart", OUT=out, **settings)
    assert first.returncode == 0, first.stderr
    figures = results(out / "evaluation")
    # As after a kill: an unfinished part, a checkpoint without its index, no evaluation.
    (out / "iteration-1" / "heldout" / "part-00000.jsonl").unlink()
    (out / "iteration-1" / "checkpoint" / "model_index.json").unlink()
    for path in (out / "iteration-1" / "heldout" / "scores").glob("part-*"):
        path.unlink()
    again = run("quickstart", OUT=out, **settings)
    assert again.returncode == 0, again.stderr
    assert results(out / "evaluation") == figures
