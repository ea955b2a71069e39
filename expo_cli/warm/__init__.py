"""A warm start: one process imports torch and diffusers, and `expo` commands fork from it.

    eval "$(expo warm)"     # in a script or a shell; then `expo` as ever

The imports cost 4 to 9 CPU seconds per command, more than a small command's work. The process is
owned, not found: it is known by EXPO_WARM alone, takes commands of its own user through a socket in a
folder of mode 700, and ends with the shell that started it, or when nothing asks for it any more.

A command stays the real one. The caller's process (`client`) sends what it was given (`caller`):
arguments, environment, working directory, open files, umask, limits, priority, cores and process
group. The server (`server`) forks a worker that takes all of it on; the client passes signals on,
and ends as the worker does. When the client is killed, the kernel kills the worker with it: no
second run of the command meets a writer that was left behind.

A command runs cold, without a word, where a warm one could differ: with a GPU in sight, under
accelerate, torchrun or SLURM, outside Linux, in another environment than the server's (but for
`caller.FREE`), session, container or interpreter. Code that changed since the import is imported
again, by a new server.
"""
