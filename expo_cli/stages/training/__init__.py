"""`expo train`: the data of each kind, the reference, the optimiser steps, states and checkpoints."""
