"""Every knob of every command, once: its name, type, default, help and check.

`commands.flags` makes the command line out of these classes, `--config FILE.toml` fills the same
fields, and `run.json` records them. Sources of weights are a folder, a hub id or `embedded:NAME`.
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
