"""`expo score`: judges the images of rollouts and image folders."""
