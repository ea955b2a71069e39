"""`expo make-pairs --layout` and `--export`: imports and exports preference data."""
