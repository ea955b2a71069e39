"""EXPO: online preference learning with explicit exploration for text-to-image diffusion models."""

__version__ = "0.1.0"
