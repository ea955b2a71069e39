"""`expo make-pairs --layout` and `--export`: preference data of others, in and out."""
