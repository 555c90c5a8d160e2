"""Errors that a user can mend, each with the exit code of the command line."""


class OodbenchError(Exception):
    """An error told in one line, without a traceback."""

    exit_code = 2


class RequestError(OodbenchError):
    """What was asked for, or the data it needs, is wrong."""


class DamagedFileError(OodbenchError):
    """A stored file is truncated, edited or foreign; it is named and left as it is."""


class CellError(OodbenchError):
    """A cell could not be computed; the others are stored."""

    exit_code = 3


class ConformanceError(OodbenchError):
    """A plugin breaks its contract.

    Attributes:
        check: Name of the property that failed, such as ``batch-independence``.
    """

    def __init__(self, check: str, message: str) -> None:
        super().__init__(f"{check}: {message}")
        self.check = check
