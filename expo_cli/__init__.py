"""EXPO: online preference learning with explicit exploration for text-to-image diffusion models."""

from expo_cli.threads import set_defaults

__version__ = "0.1.0"

set_defaults()  # before anything loads torch
