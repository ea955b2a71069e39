"""The files on disk: everything that one stage writes and another reads."""
