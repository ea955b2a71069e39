"""`expo evaluate`: what rollouts and their scores hold, and the record of a finished evaluation."""
