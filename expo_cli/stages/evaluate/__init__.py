"""`expo evaluate`: reads scored rollouts, compares them and writes results, plots and report."""
