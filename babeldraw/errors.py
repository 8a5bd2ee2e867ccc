"""The one exception that is the user's to mend."""


class UserError(Exception):
    """A mistake in a config, a flag or the data, told in one line.

    The message names the field, the value and what would do. The command line prints it without a
    traceback and exits with status 2.
    """
