"""The self-contained HTML report of `expo evaluate`."""
