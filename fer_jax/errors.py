"""The one kind of error that is a message to the person at the keyboard, not a bug."""


class UserError(ValueError):
    """Something the user can mend: says what is wrong, where, and what to do. `main` prints it without traceback."""
