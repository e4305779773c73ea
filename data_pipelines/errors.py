"""What errors say, and the error of every store."""


class StoreError(ValueError):
    """A store, or data meant for one, that does not keep the contract, cannot be read or cannot be written."""


def first_line(error: BaseException) -> str:
    """First line of an error's message, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
