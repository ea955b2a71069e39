"""What the work of several commands shares."""
