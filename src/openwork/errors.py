"""The errors that a user can mend."""


class UserError(ValueError):
    """What the user gave cannot be used; the message is one line that names the thing, the value and the mend.

    The command line prints the message and ends with status 2; as a library it is an ordinary ``ValueError``.
    """


class Interrupted(UserError):
    """The run was asked to stop, has saved its state, and can be taken up again."""
