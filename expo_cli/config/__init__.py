"""Every setting of every command, defined once: its name, type, default, help and check.

`commands.flags` turns these classes into command lines, `--config FILE.toml` fills the same fields,
and `run.json` records them. Weights are given as a folder, a hub id or `embedded:NAME`.
"""

from expo_cli.config.common import CommonConfig, Flag, Precision, RunOptions
from expo_cli.config.env import EnvConfig
from expo_cli.config.evaluate import EvaluateConfig
from expo_cli.config.hub import HubConfig
from expo_cli.config.make_pairs import MakePairsConfig, PairImagesConfig
from expo_cli.config.prep_prompts import PrepPromptsConfig
from expo_cli.config.rollout import RolloutConfig
from expo_cli.config.score import ScoreConfig
from expo_cli.config.status import StatusConfig
from expo_cli.config.train import TrainConfig

__all__ = [
    "CommonConfig",
    "EnvConfig",
    "EvaluateConfig",
    "Flag",
    "HubConfig",
    "MakePairsConfig",
    "PairImagesConfig",
    "Precision",
    "PrepPromptsConfig",
    "RolloutConfig",
    "RunOptions",
    "ScoreConfig",
    "StatusConfig",
    "TrainConfig",
]
