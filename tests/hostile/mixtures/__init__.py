"""Generated mixtures of settings, inputs and outputs that do not belong together."""
