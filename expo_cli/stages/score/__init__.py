"""`expo score`: judges the images of rollouts and of plain folders."""
