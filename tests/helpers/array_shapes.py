"""Checks, at every call, the dtypes and shapes that annotations such as Float[Tensor, "batch channel lat lon"] promise."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import UnionType
from typing import Any, Union, get_args, get_origin

from jaxtyping import AbstractArray


def check_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function as `jaxtyping.install_import_hook` asks of a type checker; look at nothing but arrays.

    Other annotations are mypy's to check. One axis name means one length within a call: jaxtyping keeps the account.
    """
    hints: dict[str, Any] = {}
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*arguments: Any, **named: Any) -> Any:
        if not hints:
            hints.update(_array_hints(function))
        bound = signature.bind(*arguments, **named).arguments
        for name in hints.keys() & bound.keys():
            _check(name, bound[name], hints[name])
        result = function(*arguments, **named)
        if "return" in hints:
            _check("return", result, hints["return"])
        return result

    return checked


def _array_hints(function: Callable[..., Any]) -> dict[str, Any]:
    found = {"": None}  # never empty: looked up once
    for name, hint in function.__annotations__.items():
        if isinstance(hint, str):
            try:
                hint = eval(hint, function.__globals__)  # type: ignore[attr-defined]
            except NameError:  # imported for mypy only
                continue
        if any(_is_array(member) for member in _members(hint)):
            found[name] = hint
    return found


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_array(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, AbstractArray)


def _check(name: str, value: Any, hint: Any) -> None:
    members = _members(hint)
    # Of a union only what is an array is looked at: a None or a number beside it is mypy's.
    if not hasattr(value, "shape") or any(
        not _is_array(member) and isinstance(member, type) and isinstance(value, member) for member in members
    ):
        return
    if not any(isinstance(value, member) for member in members if _is_array(member)):
        raise TypeError(f"{name} must be {hint}; got {value.dtype} {tuple(value.shape)}.")
