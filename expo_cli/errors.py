"""What a user can have done wrong, as one line and an exit code."""

LONGEST_MESSAGE = 2000


class ExpoError(Exception):
    """A fault of the input or the machine: one line that says what, where and what to do."""

    exit_code = 1


class ContractError(ExpoError):
    """A file that does not hold what its contract says; the message names file and line."""


class UsageError(ExpoError):
    """Flags or settings that are unknown, wrong or contradict each other."""

    exit_code = 2


class Interrupted(ExpoError):
    """A signal asked to stop; what is finished is kept and the same command goes on from there.

    75 is EX_TEMPFAIL of sysexits.h: schedulers read it as "try again".
    """

    exit_code = 75


def printable(text: str) -> str:
    """The text with control characters (a prompt's escapes) shown, which a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(message: str) -> str:
    """The message on one line, printable; one that quotes a whole file is cut."""
    text = " ".join(message.split())
    return printable(text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]} ...")
