"""What is on disk: every file that one stage writes and another reads."""
