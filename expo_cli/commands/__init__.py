"""The command line, one thin file a command: wiring, no work."""
