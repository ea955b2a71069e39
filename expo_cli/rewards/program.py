"""A reward that is an outside program, so that its pins need not agree with ours."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from expo_cli.contracts.files import sha256
from expo_cli.errors import ContractError, ExpoError
from expo_cli.rewards.protocol import Batch, Judgement, Reward

if TYPE_CHECKING:
    import torch


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

    It is started once a part. Standard input has a line `{"sample_id", "image", "prompt"}` a
    sample, `image` being the absolute path of a PNG that is deleted afterwards; standard output
    has a line `{"sample_id", "score"}` a sample, in any order, higher is better. Anything else,
    or an exit code that is not 0, stops the command.
    """

    program: str

    whole_parts: ClassVar[bool] = True

    def path(self) -> Path:
        """Raises ExpoError when there is no such program, or it may not be executed."""
        path = shutil.which(self.program)
        if path is None:
            hint = " (chmod +x)" if Path(self.program).is_file() else ""
            raise ExpoError(f"exec: {self.program} is not an executable program{hint}")
        return Path(path).resolve()

    def identity(self) -> dict[str, Any]:
        return {"program": sha256(self.path()), "scale": 1.0}

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
            output = self._run(b"".join(msgspec.json.encode(q) + b"\n" for q in questions))
        scores = self._scores(output, batch.sample_ids)
        return Judgement([scores[sample_id] for sample_id in batch.sample_ids])

    def _run(self, questions: bytes) -> bytes:
        """What the program answers. Raises ExpoError when it cannot be run or fails."""
        try:
            done = subprocess.run([self.path()], input=questions, capture_output=True, check=False)
        except OSError as error:
            raise ExpoError(f"exec: {self.program}: cannot be run: {error.strerror}") from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            last = said[-1].strip() if said else "(nothing on stderr)"
            raise ExpoError(f"exec: {self.program}: exit code {done.returncode}: {last}")
        return done.stdout

    def _scores(self, output: bytes, sample_ids: Sequence[str]) -> dict[str, float]:
        """Raises ContractError when there is not one score for each sample."""
        decoder = msgspec.json.Decoder(_Answer)
        scores: dict[str, float] = {}
        expected = set(sample_ids)
        for number, line in enumerate(output.splitlines(), start=1):
            where = f"exec: {self.program}: line {number} of its output"
            try:
                answer = decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                text = line[:80].decode(errors="replace")
                raise ContractError(f"{where} is no score ({error}): {text!r}") from error
            if answer.sample_id not in expected:
                raise ContractError(f"{where} scores {answer.sample_id!r}, which was not asked")
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
