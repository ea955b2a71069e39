"""User errors: one line and an exit code each."""

LONGEST_MESSAGE = 2000


class ExpoError(Exception):
    """An error of the input or the machine; its one line says what, where and what to do."""

    exit_code = 1


class ContractError(ExpoError):
    """A file that breaks its contract; the message names file and line."""


class UsageError(ExpoError):
    """Flags or settings that are unknown, wrong or contradict each other."""

    exit_code = 2


class Interrupted(ExpoError):
    """A signal asked to stop; finished work is kept, and the same command continues from there.

    75 is EX_TEMPFAIL of sysexits.h: schedulers read it as "try again".
    """

    exit_code = 75


def printable(text: str) -> str:
    """The text with control characters escaped, which a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(message: str) -> str:
    """The message on one printable line; a very long one is cut."""
    text = " ".join(message.split())
    return printable(text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]} ...")
