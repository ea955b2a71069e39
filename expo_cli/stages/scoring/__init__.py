"""`expo score`: what can be scored, and the pass over its images."""
