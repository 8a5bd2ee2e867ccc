"""The one exception that is the user's to mend."""

import contextlib
import logging
import sys
from collections.abc import Iterator


class UserError(Exception):
    """A mistake in a config, a flag or the data, told in one line.

    The message names the field, the value and what would do. The command line prints it without a
    traceback and exits with status 2.
    """


def drop_unraisable() -> None:
    """From here on, what libraries' objects raise as they are freed is not told.

    Where a library's read of many parts fails at one, it leaves the others under way; what becomes
    of them is nobody's to mend, and would have the last word.
    """
    sys.unraisablehook = lambda _: None
    logging.getLogger("asyncio").disabled = True


@contextlib.contextmanager
def without_unraisable() -> Iterator[None]:
    """The same, inside."""
    asyncio = logging.getLogger("asyncio")
    before = sys.unraisablehook, asyncio.disabled
    drop_unraisable()
    try:
        yield
    finally:
        sys.unraisablehook, asyncio.disabled = before
