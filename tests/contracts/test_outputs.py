"""The life cycle of an output, tested with a kind that has two files per part."""

import multiprocessing
import os
from contextlib import suppress

import pytest

from expo_cli.contracts.outputs import (
    File,
    Input,
    Parts,
    check_not_cut,
    count_lines,
    create,
    run_path_of,
)
from expo_cli.contracts.provenance import Run, read_run, write_run
from expo_cli.errors import ContractError, ExpoError, UsageError


class Paintings(Parts):
    def part_files(self, part):
        return [f"part-{part}.txt", f"part-{part}.png"]

    def own_files(self):
        yield from sorted(self.path.glob("part-*"))


def run(seed=0, **others):
    return Run(command="paint", plan={"seed": seed}, **others)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder of an output that is not there yet; the current folder is another one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "out"


@pytest.fixture
def output(place):
    return Paintings(place, "paint", 3)


def paint(output, part):
    for name in output.part_files(part):
        (output.path / name).touch()


def tree(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_who_comes_first_begins_it_and_who_has_the_same_run_continues(output):
    assert output.begin(run(), [])
    assert not output.begin(run(), [])
    assert read_run(output.path).plan == {"seed": 0}


def test_another_run_is_refused_before_the_first_part_is_there(output):
    output.begin(run(), [])
    with pytest.raises(ContractError, match="out: was begun with seed=0, not 1; choose another"):
        output.begin(run(1), [])
    assert read_run(output.path).plan == {"seed": 0}


def claim(path, seed, start, results):
    start.wait()
    try:
        Paintings(path, "paint", 3).begin(run(seed), [])
        results.put(seed)
    except ContractError:
        results.put(None)


def test_of_many_that_start_at_once_one_run_wins_whole(place):
    context = multiprocessing.get_context("fork")
    for attempt in range(5):
        start, results = context.Event(), context.Queue()
        path = place / str(attempt)
        workers = [
            context.Process(target=claim, args=(path, seed % 4, start, results))
            for seed in range(12)
        ]
        for worker in workers:
            worker.start()
        start.set()
        seeds = [results.get(timeout=300) for _ in workers]
        won = read_run(path).plan["seed"]
        assert seeds.count(won) == 3
        assert seeds.count(None) == 9
        assert os.listdir(path) == ["run.json"]


def test_an_input_that_differs_is_named_with_both_places(output):
    output.begin(run(inputs={"model/unet": "a" * 64}, free={"model": "old/sd"}), [])
    other = run(inputs={"model/unet": "b" * 64}, free={"model": "new/sd"})
    with pytest.raises(
        ContractError,
        match=r"model/unet of old/sd \(sha256 a{16}\), not model/unet of new/sd \(sha256 b{16}\)",
    ):
        output.begin(other, [])


def test_a_spelling_is_free(output):
    output.begin(run(free={"model": "sd"}), [])
    assert not output.begin(run(free={"model": "./sd/"}), [])


def test_missing_parts_are_named(output):
    output.begin(run(), [])
    paint(output, 1)
    (output.path / "part-2.txt").touch()
    assert output.missing() == [0, 2]
    output.require([1])
    with pytest.raises(ExpoError, match=r"2 of 3 parts are missing \(0, 2\).*`expo paint` again"):
        output.require()


def test_a_list_of_missing_parts_stays_short(place):
    output = Paintings(place, "paint", 1000)
    with pytest.raises(ExpoError, match=r"1000 of 1000 parts are missing \(0-999\)"):
        output.require()
    place.mkdir()
    for number in range(0, 1000, 2):
        paint(output, number)
    with pytest.raises(ExpoError, match=r"\(1, 3, 5, 7, 9, 11, 13, 15, \.\.\.\)"):
        output.require()


@pytest.mark.parametrize("overwrite", [False, True])
def test_parts_without_a_run_are_refused_not_adopted(output, overwrite):
    output.path.mkdir()
    paint(output, 0)
    before = tree(output.path)
    with pytest.raises(ExpoError, match=r"part-0.png: exists, and no run.json says"):
        output.begin(run(), [], overwrite)
    assert tree(output.path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_output_of_another_command_is_refused(output, overwrite):
    write_run(output.path, Run(command="sing", plan={}))
    with pytest.raises(UsageError, match="out: is the output of `expo sing`, not of paint"):
        output.begin(run(), [], overwrite)


def test_overwrite_removes_what_is_its_own_and_nothing_else(output):
    output.begin(run(), [])
    paint(output, 0)
    (output.path / "notes.txt").write_text("mine")
    output.begin(run(1), [], overwrite=True)
    assert sorted(os.listdir(output.path)) == ["notes.txt", "run.json"]
    assert read_run(output.path).plan == {"seed": 1}


def test_overwrite_does_not_touch_a_folder_that_expo_did_not_make(output):
    output.path.mkdir()
    (output.path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty, and no run.json says that expo made it"):
        output.begin(run(), [], overwrite=True)
    assert os.listdir(output.path) == ["notes.txt"]


def spellings(path, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(path)
    return [path, tmp_path / "x" / ".." / path.name, link, os.path.relpath(path)]


def test_an_input_is_never_the_output_however_it_is_spelled(output, tmp_path):
    output.begin(run(), [])
    (tmp_path / "x").mkdir()
    for spelling in spellings(output.path, tmp_path):
        with pytest.raises(UsageError, match="is also --policy .* an input cannot be the output"):
            output.begin(run(), [Input("--policy", type(output.path)(spelling))])


def test_overwrite_spares_a_folder_that_holds_an_input_however_it_is_spelled(output, tmp_path):
    output.begin(run(), [])
    paint(output, 0)
    model = output.path / "model"
    model.mkdir()
    (tmp_path / "x").mkdir()
    before = tree(output.path)
    for spelling in (model, tmp_path / "x" / ".." / "out" / "model"):
        with pytest.raises(UsageError, match="holds --policy .*, which this command reads"):
            output.begin(run(), [Input("--policy", spelling)], overwrite=True)
    (tmp_path / "link").symlink_to(model)
    with pytest.raises(UsageError, match="holds --policy"):
        output.begin(run(), [Input("--policy", tmp_path / "link")], overwrite=True)
    assert tree(output.path) == before


@pytest.mark.parametrize("spelling", ["", ".", "..", "/", "../..", "sub/.."])
@pytest.mark.parametrize("overwrite", [False, True])
def test_here_and_above_are_no_place(spelling, overwrite, tmp_path, monkeypatch):
    (tmp_path / "a/b/sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")
    for path in (spelling, os.path.abspath(spelling)):
        output = Paintings(type(tmp_path)(path), "paint", 3)
        with pytest.raises(UsageError, match="is the current folder or above it"):
            output.begin(run(), [], overwrite)
    assert os.listdir(tmp_path / "a/b") == ["sub"]


def test_what_came_to_nothing_leaves_nothing(output):
    with pytest.raises(UsageError, match="no paint"), output.begun(run(), []):
        raise UsageError("no paint")
    assert not output.path.exists()
    with suppress(UsageError), output.begun(run(), []):
        paint(output, 0)
        raise UsageError("half")
    assert read_run(output.path).plan == {"seed": 0}


def test_a_worker_whose_output_was_started_anew_stops(output):
    output.begin(run(), [])
    Paintings(output.path, "paint", 3).begin(run(1), [], overwrite=True)
    with pytest.raises(ContractError, match="was begun with seed=1, not 0"):
        output.claim(run())


def test_an_older_version_is_read_but_never_continued(output):
    output.path.mkdir()
    (output.path / "run.json").write_text('{"command": "paint", "plan": {"seed": 0}}')
    paint(output, 0)
    assert output.run().is_older
    with pytest.raises(ContractError, match="an older version of expo.* read but not continued"):
        output.begin(run(), [])
    output.begin(run(), [], overwrite=True)
    assert os.listdir(output.path) == ["run.json"]


def test_where_there_are_no_links_a_file_is_created_once_too(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", no_links)
    assert create(tmp_path / "a", b"1")
    assert not create(tmp_path / "a", b"2")
    assert tree(tmp_path) == {(tmp_path / "a").relative_to(tmp_path): b"1"}


class TestFile:
    @pytest.fixture
    def file(self, place):
        return File(place.with_suffix(".jsonl"), "paint")

    def make(self, file, content="a\nb\n", seed=0, overwrite=False):
        assert file.finished(run(seed), [], overwrite) is None
        with file.making(run(seed), overwrite):
            file.path.write_text(content)
        file.finish(run(seed))

    def test_made_once(self, file):
        self.make(file)
        made = file.finished(run(), [], overwrite=False)
        assert (made.lines, made.plan) == (2, {"seed": 0})
        with pytest.raises(ContractError, match="was begun with seed=0, not 1"):
            file.finished(run(1), [], overwrite=False)
        self.make(file, "c\n", 1, overwrite=True)
        assert file.path.read_text() == "c\n"

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_file_that_expo_did_not_make_stays(self, file, overwrite):
        file.path.write_text("precious")
        with pytest.raises(ExpoError, match="out.jsonl"):
            file.finished(run(), [], overwrite)
        assert tree(file.path.parent) == {type(file.path)("out.jsonl"): b"precious"}

    def test_a_file_that_was_changed_is_not_taken_for_made(self, file):
        self.make(file)
        file.path.write_text("a\nB\n")
        with pytest.raises(ContractError, match="out.jsonl: was changed since expo wrote it"):
            file.finished(run(), [], overwrite=False)

    def test_a_cut_file_is_seen_by_its_count(self, file):
        self.make(file)
        check_not_cut(file.path)
        file.path.write_text("a\n")
        with pytest.raises(ContractError, match=r"out.jsonl: has 1 lines, expo wrote 2 \(out"):
            check_not_cut(file.path)
        shorter = file.path.with_name("head.jsonl")
        shorter.write_text("a\n")
        check_not_cut(shorter)

    def test_an_error_leaves_file_and_run_as_they_were(self, file):
        with pytest.raises(ExpoError), file.making(run(), overwrite=False):
            raise ExpoError("a bad row")
        assert tree(file.path.parent) == {}
        self.make(file)
        before = tree(file.path.parent)
        with pytest.raises(ExpoError), file.making(run(1), overwrite=True):
            raise ExpoError("a bad row")
        assert tree(file.path.parent) == before

    def test_what_is_stopped_after_its_file_is_there_is_begun_and_made_again(self, file):
        """As when a second file of the same command could not be written."""
        with suppress(ExpoError), file.making(run(), overwrite=False):
            file.path.write_text("a\nb\n")
            raise ExpoError("no space for the other one")
        assert not file.is_finished()
        self.make(file)
        assert file.is_finished()

    def test_what_a_kill_left_begun_is_made(self, file):
        file.claim(run())
        assert not file.is_finished()
        self.make(file)
        assert file.is_finished()
        assert count_lines(file.path) == 2
        assert run_path_of(file.path).exists()

    @pytest.mark.parametrize("spelling", ["", ".", "..", "/", "folder"])
    def test_a_folder_is_no_file(self, spelling, tmp_path, monkeypatch):
        (tmp_path / "folder").mkdir()
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UsageError, match="is a folder; name a file"):
            File(type(tmp_path)(spelling), "paint").finished(run(), [], overwrite=False)
