"""The one exception that stands for bad input."""


class InputError(ValueError):
    """Input that cannot be used as given.

    The message is one sentence that says what is wrong and what to do. From Python it is raised like any
    ``ValueError``; the command line prints it without a traceback and exits with code 2.
    """
