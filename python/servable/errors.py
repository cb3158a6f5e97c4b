"""What can go wrong, as a canonical code and a message.

    ServableError                  any code; UNKNOWN unless said otherwise
    ├── InvalidArgumentError       INVALID_ARGUMENT: the request or the configuration is wrong in itself
    │   ├── FlagError              a command line that cannot be understood
    │   └── MalformedFileError     a configuration file that does not parse
    ├── NotFoundError              NOT_FOUND: a file, model or version is not there
    ├── AlreadyExistsError         ALREADY_EXISTS: what was to be made is there
    ├── FailedPreconditionError    FAILED_PRECONDITION: right in itself, but something else has to be done first
    ├── UnimplementedError         UNIMPLEMENTED: TensorFlow Serving may do it, servable does not (yet)
    ├── CancelledError             CANCELLED: no longer wanted
    ├── IncompleteError            UNAVAILABLE: not all there yet
    ├── InsufficientMemoryError    RESOURCE_EXHAUSTED: there is no room for it
    └── InternalError              INTERNAL: a bug of ours

Only the edges know gRPC and HTTP numbers; here codes are names.
"""

from __future__ import annotations

__all__ = [
    "AlreadyExistsError",
    "CancelledError",
    "FailedPreconditionError",
    "FlagError",
    "IncompleteError",
    "InsufficientMemoryError",
    "InternalError",
    "InvalidArgumentError",
    "MalformedFileError",
    "NotFoundError",
    "ServableError",
    "UnimplementedError",
    "reading",
]


class ServableError(Exception):
    """An error with a canonical code name, such as `NOT_FOUND`."""

    code = "UNKNOWN"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code

    @property
    def status(self) -> str:
        """`CODE: message`, as TensorFlow prints a status."""
        return f"{self.code}: {self.message}"


class InvalidArgumentError(ServableError):
    code = "INVALID_ARGUMENT"


class FlagError(InvalidArgumentError):
    pass


class MalformedFileError(InvalidArgumentError):
    """`detail` tells what is wrong and where; it goes to the log, because TensorFlow Serving has it there."""

    def __init__(self, path: str, message_type: str, reason: str) -> None:
        super().__init__(f"Invalid protobuf file: '{path}'")
        self.detail = f"Error parsing text-format {message_type}: {reason}"


class NotFoundError(ServableError):
    code = "NOT_FOUND"


class AlreadyExistsError(ServableError):
    code = "ALREADY_EXISTS"


class FailedPreconditionError(ServableError):
    code = "FAILED_PRECONDITION"


class UnimplementedError(ServableError):
    code = "UNIMPLEMENTED"


class CancelledError(ServableError):
    code = "CANCELLED"


class IncompleteError(ServableError):
    """The files of a version are not (yet) all there; look again in `retry_after_s`."""

    code = "UNAVAILABLE"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class InsufficientMemoryError(ServableError):
    code = "RESOURCE_EXHAUSTED"


class InternalError(ServableError):
    code = "INTERNAL"


def reading(path: str, error: OSError) -> ServableError:
    """The domain error for a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"{path}; No such file or directory")
    code = "PERMISSION_DENIED" if isinstance(error, PermissionError) else "UNKNOWN"
    return ServableError(f"{path}; {error.strerror}", code=code)
