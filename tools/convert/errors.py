"""The one exception of the converter, and how values of a file are shown in its messages."""

SHOWN_CHARACTERS = 100


class ConvertError(Exception):
    """What is wrong with the input: which file, which tensor, found, expected, what to do next."""


def shown(value):
    """A value from a file that is not to be trusted, on one line, short, without control characters.

    Containers are shown as their kind only: they may be nested without end, or hold themselves.
    """
    if value is None or isinstance(value, (bool, float)):
        return str(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 128 else f"a number of {value.bit_length()} bits"
    if isinstance(value, (str, bytes)):
        text = ascii(value[:SHOWN_CHARACTERS])
        return text if len(value) <= SHOWN_CHARACTERS else text + "..."
    if isinstance(value, tuple) and all(isinstance(item, int) for item in value[:8]):
        return "[" + ", ".join(shown(item) for item in value[:8]) + (", ...]" if len(value) > 8 else "]")
    return f"a {type(value).__name__}"
