"""One base error. Every message is one sentence: what was expected, what came, what to do."""


class DDNError(Exception):
    """Base of every error this library raises on purpose."""


class InvalidInput(DDNError, ValueError):
    """An argument has the wrong shape, range or type; nothing was computed and nothing changed."""


class DataError(DDNError):
    """A file or folder of images cannot be used; the message names it."""


class ModelFileError(DDNError):
    """A saved model is missing, damaged, unsafe or of another architecture; the message names the file."""


def require(condition: bool, expected: str, came: object, advice: str = "") -> None:
    """Raise `InvalidInput` unless `condition` holds."""
    if not condition:
        raise InvalidInput(f"expected {expected}, got {came}" + (f"; {advice}" if advice else ""))
