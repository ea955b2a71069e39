"""A reward computed by an external program, whose dependencies may conflict with EXPO's."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar

import msgspec

from expo_cli.contracts.identity import file_sha256
from expo_cli.errors import ContractError, ExpoError
from expo_cli.rewards.protocol import Batch, Judgement, Reward

if TYPE_CHECKING:
    import torch


# Bytes: the longest line of the program's output, and the end of its stderr that is read.
LONGEST_LINE = 1 << 16


class _Question(msgspec.Struct):
    sample_id: str
    image: str
    prompt: str


class _Answer(msgspec.Struct):
    sample_id: str
    score: float


@dataclass
class Program(Reward):
    """`exec:PROGRAM`: an executable file, or a command on PATH, without arguments.

    It is started once per part. Standard input has one line `{"sample_id", "image", "prompt"}` per
    sample; `image` is the absolute path of a PNG that is deleted afterwards. Standard output must
    have one line `{"sample_id", "score"}` per sample, in any order; higher is better. Anything else,
    or an exit code that is not 0, stops the command.
    """

    program: str

    whole_parts: ClassVar[bool] = True

    def path(self) -> Path:
        """Raises ExpoError when the program does not exist or is not executable."""
        path = shutil.which(self.program)
        if path is None:
            hint = " (chmod +x)" if Path(self.program).is_file() else ""
            raise ExpoError(f"exec: {self.program} is not an executable program{hint}")
        return Path(path).resolve()

    def identity(self) -> dict[str, Any]:
        return {"program": file_sha256(self.path()), "scale": 1.0}

    def load(self, device: torch.device, dtype: torch.dtype) -> None:
        self.path()

    def judge(self, batch: Batch) -> Judgement:
        with tempfile.TemporaryDirectory(prefix="expo-") as folder:
            questions = []
            for sample_id, prompt, image in zip(
                batch.sample_ids, batch.prompts, batch.images, strict=True
            ):
                path = Path(folder, f"{sample_id}.png")
                image.save(path, compress_level=1)
                questions.append(_Question(sample_id, str(path), prompt))
            path = Path(folder, "questions.jsonl")
            path.write_bytes(b"".join(msgspec.json.encode(q) + b"\n" for q in questions))
            with Path(folder, "answers.jsonl").open("w+b") as answers:
                self._run(path, answers)
                scores = self._scores(answers, batch.sample_ids)
        return Judgement([scores[sample_id] for sample_id in batch.sample_ids])

    def _run(self, questions: Path, answers: IO[bytes]) -> None:
        """Run the program. Raises ExpoError when it cannot be run or fails.

        Its output goes to files, because it may exceed the memory.
        """
        try:
            with questions.open("rb") as asked, tempfile.TemporaryFile() as said:
                done = subprocess.run(
                    [self.path()], stdin=asked, stdout=answers, stderr=said, check=False
                )
                said.seek(max(0, said.tell() - LONGEST_LINE))
                last = said.read().decode(errors="replace").strip().splitlines()[-1:]
        except OSError as error:
            raise ExpoError(f"exec: {self.program}: cannot be run: {error.strerror}") from error
        if done.returncode != 0:
            reason = last[0].strip() if last else "(nothing on stderr)"
            raise ExpoError(f"exec: {self.program}: exit code {done.returncode}: {reason}")

    def _scores(self, answers: IO[bytes], sample_ids: Sequence[str]) -> dict[str, float]:
        """Raises ContractError when there is not one score for each sample."""
        answers.seek(0)
        lines = iter(lambda: answers.readline(LONGEST_LINE), b"")
        decoder = msgspec.json.Decoder(_Answer)
        scores: dict[str, float] = {}
        expected = set(sample_ids)
        for number, line in enumerate(lines, start=1):
            where = f"exec: {self.program}: line {number} of its output"
            try:
                answer = decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                text = line[:80].decode(errors="replace").rstrip()
                raise ContractError(f"{where} is not a score ({error}): {text!r}") from error
            if answer.sample_id not in expected:
                raise ContractError(
                    f"{where} scores {answer.sample_id!r}, which is not among its samples"
                )
            if answer.sample_id in scores:
                raise ContractError(f"{where} scores {answer.sample_id} again")
            scores[answer.sample_id] = answer.score
        missing = [sample_id for sample_id in sample_ids if sample_id not in scores]
        if missing:
            raise ContractError(
                f"exec: {self.program}: no score for {len(missing)} of {len(sample_ids)} samples, "
                f"the first is {missing[0]}"
            )
        return scores
