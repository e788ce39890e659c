"""The one exception that stands for bad input."""


class InputError(ValueError):
    """Input that cannot be used as given.

    The message is one sentence that says what is wrong and what to do. From Python it is raised like any
    ``ValueError``; the command line prints it without a traceback and exits with code 2.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of another library's message, to be quoted inside a sentence."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
