"""The one kind of error that is a message to the person at the keyboard, not a bug."""

import difflib
import functools
import sys
from collections.abc import Callable, Iterable


class UserError(ValueError):
    """Something the user can mend: says what is wrong, where, and what to do."""


class OutOfMemory(UserError):
    """A device's memory does not suffice."""


def exits_with_message(main: Callable) -> Callable:
    """`main`, in which a `UserError` ends in its message and exit code 1, without traceback."""

    @functools.wraps(main)
    def guarded(*arguments, **named):
        try:
            return main(*arguments, **named)
        except UserError as error:
            sys.exit(f"error: {error}")

    return guarded


def out_of_memory(error: Exception) -> bool:
    """Whether XLA says that a device's memory does not suffice."""
    return "RESOURCE_EXHAUSTED" in str(error)


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error of a name that is not in a registry: what was probably meant, and all that there is."""
    known = list(known)
    near = difflib.get_close_matches(name, known, 1)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {what} {name!r}.{meant} Known: {', '.join(known) or 'none'}")
