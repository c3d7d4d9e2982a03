"""The one exception that a user is meant to read."""


class PocketError(Exception):
    """Something that the user can mend: the message says what is wrong, where, and what to do.

    The command prints the message after ``error:`` and exits with ``exit_code``; a Python caller catches it as
    ``pocketvit.PocketError``.
    """

    exit_code = 2


class NotSmaller(PocketError):
    """No int8 file that is good enough: who did not ask for one goes on with the fp32 file, and says why."""
