"""Decorated functions -> what a worker can be asked for."""

from __future__ import annotations

import inspect
import re
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, TypeVar, Union, overload

from . import parameters

Function = TypeVar("Function", bound=Callable[..., Any])
Read = Callable[[str], Any]

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


class Failure(Exception):
    """What a function raises to say why there is no answer, in one sentence and without a traceback."""


class Known(NamedTuple):
    """A function that can be asked for."""

    name: str
    function: Callable[..., Any]
    #: How the text of each parameter is read.
    reads: Mapping[str, Read]
    #: It also takes whatever else the product has, as texts.
    takes_others: bool

    def arguments(self, texts: Mapping[str, str]) -> Dict[str, Any]:
        """The function's arguments, of the parameters' texts."""
        unknown = [name for name in texts if name not in self.reads]
        if unknown and not self.takes_others:
            raise Failure(f"{self.name} takes no parameter '{unknown[0]}'")
        arguments: Dict[str, Any] = {}
        for name, text in texts.items():
            try:
                arguments[name] = self.reads.get(name, str)(text)
            except Exception as error:  # whatever a reader of another's raises
                raise Failure(f"parameter '{name}' cannot be read: {error}") from error
        return arguments


products: Dict[str, Known] = {}
processes: Dict[str, Known] = {}


@overload
def product(function: Function, /) -> Function: ...
@overload
def product(
    *, name: Optional[str] = None, params: Optional[Mapping[str, Read]] = None
) -> Callable[[Function], Function]: ...


def product(
    function: Optional[Function] = None,
    /,
    *,
    name: Optional[str] = None,
    params: Optional[Mapping[str, Read]] = None,
) -> Union[Function, Callable[[Function], Function]]:
    """This function makes the answers of a product, which has its name unless `name` says another.

    It is given the product's parameters by name, read as its annotations say (`int`, `Decimal`, `datetime.date`, …)
    or as `params` says; what has neither stays the text. What it returns is the answer. It may be `async`.
    """
    return _registered(products, "product", function, name, params)


@overload
def process(function: Function, /) -> Function: ...
@overload
def process(*, name: Optional[str] = None) -> Callable[[Function], Function]: ...


def process(
    function: Optional[Function] = None, /, *, name: Optional[str] = None
) -> Union[Function, Callable[[Function], Function]]:
    """This function does what a process on schedule does; what it returns is not used. It may be `async`."""
    return _registered(processes, "process", function, name, None)


def _registered(
    known: Dict[str, Known],
    kind: str,
    function: Optional[Function],
    name: Optional[str],
    params: Optional[Mapping[str, Read]],
) -> Union[Function, Callable[[Function], Function]]:
    def register(function: Function) -> Function:
        own: str = name or function.__name__
        if not _NAME.match(own):
            raise ValueError(f"'{own}' is no name of a {kind}: [a-z][a-z0-9_]*")
        if own in known and known[own].function is not function:
            raise ValueError(f"two functions are the {kind} '{own}'")
        known[own] = _known(own, function, params or {})
        return function

    return register if function is None else register(function)


def _known(name: str, function: Callable[..., Any], params: Mapping[str, Read]) -> Known:
    hints = parameters.hints(function)
    reads: Dict[str, Read] = dict(params)
    others = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            others = True
        elif parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            raise TypeError(f"{name}: kck gives parameters by name, and '{parameter.name}' has none")
        elif parameter.name not in reads:
            reads[parameter.name] = parameters.reader(name, parameter.name, hints.get(parameter.name))
    return Known(name, function, reads, others)
