"""A warm start: one process imports torch and diffusers, and `expo` commands fork from it.

    eval "$(expo warm)"     # in a script or a shell; then use `expo` as usual

The imports cost 4 to 9 CPU seconds per command, more than the work of a small command. The server
has an owner: it is known only by EXPO_WARM, takes commands of its own user through a socket in a
folder of mode 700, and exits with the shell that started it, or when it has been idle for too long.

A warm command behaves like a cold one. The caller's process (`client`) sends its own state (`caller`):
arguments, environment, working directory, open files, umask, limits, priority, cores and process
group. The server (`server`) forks a worker that adopts all of it; the client passes signals on and
exits as the worker does. When the client is killed, the kernel kills the worker too, so that a second
run of the command never meets an abandoned writer.

A command silently runs cold if a warm one could differ: with a GPU, under accelerate, torchrun or
SLURM, outside Linux, or in another environment (except `caller.FREE`), session, container or
interpreter than the server's. Code that has changed since the import is imported again by a new
server.
"""
