"""TensorRT's log messages.

TensorRT's calls return None instead of raising, so only these messages have the reason.
"""

from typing import Any, Callable, Dict, List, Type

from efficientquant_agent.backends.base import OutOfMemoryError, ran_out_of_memory

# What pybind11 makes of a failure inside TensorRT, e.g. a TypeError for a factory that returned nothing.
PYTHON_ERRORS = (RuntimeError, TypeError, ValueError)


# TensorRT uses the first logger of a process for everything, and never releases it.
_opened: Dict[Any, Any] = {}


def open_log(trt: Any, write: Callable[[str], None]) -> Any:
    """Return this process's logger for a TensorRT module.

    Its `errors` and `warnings` are the messages since this call. Both go to `write` from now on.
    """
    if trt not in _opened:
        _opened[trt] = _new_log(trt)
    logger = _opened[trt]
    logger.write = write
    del logger.errors[:], logger.warnings[:]
    return logger


def _new_log(trt: Any) -> Any:
    class Log(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.errors: List[str] = []
            self.warnings: List[str] = []
            self.write: Callable[[str], None] = lambda _line: None

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(msg)
                self.write("TensorRT error: " + msg)
            elif severity == trt.ILogger.WARNING:
                self.warnings.append(msg)
                self.write("TensorRT warning: " + msg)

    return Log()


def last_error(logger: Any, otherwise: str) -> str:
    """Return TensorRT's last error message, or `otherwise`."""
    return str(logger.errors[-1]) if logger.errors else otherwise


def start_error(logger: Any, otherwise: str) -> str:
    """Return why TensorRT could not start its builder or runtime.

    Without a GPU that is only a warning, and the exception says no more than that a factory returned nothing.
    """
    return last_error(logger, str(logger.warnings[-1]) if logger.warnings else otherwise)


def error_of(logger: Any, kind: Type[Exception], otherwise: str) -> Exception:
    """Return the exception for the call that just failed.

    It is an OutOfMemoryError when one of the messages says that memory ran out, else of class `kind`.
    """
    message = next(filter(ran_out_of_memory, [*logger.errors, otherwise]), "")
    return OutOfMemoryError(message) if message else kind(last_error(logger, otherwise))
