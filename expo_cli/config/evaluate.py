"""Settings of `expo evaluate`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from expo_cli.config.common import CommonConfig, Flag, check_at_most, check_positive


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(CommonConfig):
    baseline: Annotated[
        str | None,
        Flag("Label of the policy to compare with (default: the first one).", "Comparing"),
    ] = None
    training_reward: Annotated[
        str | None, Flag("Label of the reward that the policies were trained on.", "Comparing")
    ] = None
    heldout_reward: Annotated[
        str | None, Flag("Label of the reward that they were not trained on.", "Comparing")
    ] = None
    watched_reward: Annotated[
        str | None,
        Flag(
            "Label of a second reward that may choose a policy or stop training, on training prompts; "
            "it is then used in training.",
            "Comparing",
        ),
    ] = None
    protocol: Annotated[
        Literal["none", "hps-benchmark"],
        Flag(
            "Published protocol to follow as well; hps-benchmark adds each style's std over "
            "ten groups (one image per prompt).",
            "Comparing",
        ),
    ] = "none"
    pairs: Annotated[
        tuple[str, ...],
        Flag(
            "LABEL=FILE: pairs that this policy was the first to learn from, for the ledger; may be "
            "repeated.",
            "Report",
        ),
    ] = ()
    num_bootstrap: Annotated[
        int, Flag("Number of bootstrap resamples of the prompts.", "Comparing")
    ] = 2000
    confidence: Annotated[float, Flag("Confidence level of the intervals.", "Comparing")] = 0.95
    num_grid_prompts: Annotated[int, Flag("Number of prompts in the image grids.", "Report")] = 12
    title: Annotated[str, Flag("Title of the report.", "Report")] = "EXPO report"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(num_bootstrap=self.num_bootstrap, num_grid_prompts=self.num_grid_prompts)
        check_at_most(1_000_000, num_bootstrap=self.num_bootstrap)
        check_at_most(1000, num_grid_prompts=self.num_grid_prompts)
        if self.num_bootstrap < 2:
            raise ValueError("--num-bootstrap must be at least 2: one resample has no spread")
        if not 0 < self.confidence < 1:
            raise ValueError(f"--confidence must be in (0, 1), got {self.confidence}")
        if self.watched_reward is not None and self.training_reward is None:
            raise ValueError("--watched-reward needs --training-reward")
        if self.watched_reward is not None and self.watched_reward == self.heldout_reward:
            raise ValueError(
                f"--watched-reward and --heldout-reward are both {self.heldout_reward}; a reward that "
                "chooses a policy is not held out"
            )
        if self.training_reward is not None and self.training_reward == self.heldout_reward:
            raise ValueError(
                f"--training-reward and --heldout-reward are both {self.heldout_reward}; a reward "
                "that was trained on is not held out"
            )
