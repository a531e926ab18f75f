"""Annotations are checked while the tests run: by beartype, for which an integer is also a number (PEP 484), with the shapes of jaxtyping.

`jaxtyping.jaxtyped` checks the arguments of every call twice and binds them besides, for its messages: two fifths of a sampled minute of the tests.
`jaxtyped` here lets beartype check a call once, where sizes of the same name must agree.
"""
from __future__ import annotations

import dataclasses
import functools
import inspect
from types import FunctionType
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

by_type = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeError))
sizes = jaxtyping.jaxtyped


def check_package(name: str) -> None:
    """From now on, every annotated function and dataclass of this package is checked as it is imported."""
    jaxtyping.jaxtyped = jaxtyped                                   # what the hook puts above each of them
    jaxtyping.install_import_hook(name, None)


def jaxtyped(thing: Any = None, *, typechecker: Any = None) -> Any:
    """A function or class whose calls are checked; used as a decorator, it takes no other checker."""
    if thing is None:
        return jaxtyped
    if not isinstance(thing, FunctionType):
        if dataclasses.is_dataclass(thing) and "__init__" in vars(thing):
            thing.__init__ = jaxtyped(thing.__init__)
        return thing
    if any("{" in str(text) for text in thing.__annotations__.values()):     # a size that is computed from arguments
        return sizes(thing, typechecker=by_type)
    thing.__annotations__ = {name: hint for name, text in thing.__annotations__.items() if (hint := known(text, thing)) is not None}
    checked = by_type(thing)
    if checked is thing or inspect.isgeneratorfunction(thing) or inspect.iscoroutinefunction(thing):
        return checked

    @functools.wraps(thing)
    def in_scope(*args: Any, **kwargs: Any) -> Any:
        with sizes("context"):
            return checked(*args, **kwargs)
    return in_scope


def known(hint: Any, function: FunctionType) -> Any:
    """What an annotation says; None if it names what is not there yet, or is imported for static checkers alone."""
    try:
        return eval(hint, function.__globals__) if isinstance(hint, str) else hint
    except NameError:
        return None
