"""The one error that a user can mend."""


class UserError(ValueError):
    """What the user gave cannot be used; the message is one line that names the thing, the value and the mend.

    The command line prints the message and ends with status 2; as a library it is an ordinary ``ValueError``.
    """
