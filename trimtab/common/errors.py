"""The one exception a user is meant to see."""


class UserError(Exception):
    """Something the user can mend: wrong input, a missing file, a full disk.

    The message is one line: what was given, where (``file:line``), and what to write instead. The command line
    prints it without a traceback and ends with exit status 2.
    """


class Interrupted(UserError):
    """Ctrl-C: what was done is kept, and the same command goes on from there."""


class RunFailed(UserError):
    """A training came to an end that no input explains (its loss is not finite). The command line ends with exit status 1."""
