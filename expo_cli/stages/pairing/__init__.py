"""`expo make-pairs`: pairs of the samples, or of the steps, that a prompt's rollouts hold."""
