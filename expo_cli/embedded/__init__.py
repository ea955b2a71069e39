"""The embedded world: package data only. Made by `recipes/embedded/`, described by its model cards."""
