"""Turns annotated functions into commands of click. An annotation has a parameter's type, help text and bounds.

    app = Group(help="Keys of a team.")

    @app.command("list")
    def list_(team: Annotated[str, argument("A team.")], *, rpm: Annotated[int, option("Requests.", minimum=0)]): ...

A parameter may be str, int, float, bool (a flag), Path, an enum of texts, or a list of one of them. `| None` makes it
optional. An option has the name of its parameter, unless its annotation names it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NamedTuple, cast, get_args, get_origin, get_type_hints

import click


class Described(NamedTuple):
    """The rest of a parameter's annotation: whether it is an option, its help text and its bounds."""

    is_option: bool
    text: str
    names: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    attributes: Mapping[str, Any] = {}


def argument(text: str, *, metavar: str | None = None) -> Described:
    """Describes a positional argument. `text` is shown in the help."""
    return Described(is_option=False, text=text, attributes={"metavar": metavar})


def option(
    text: str,
    *names: str,
    minimum: float | None = None,
    maximum: float | None = None,
    envvar: str | None = None,
    metavar: str | None = None,
    show_default: bool | str = True,
) -> Described:
    """Describes an option. `text` is shown in the help. Numbers beyond the bounds are wrong usage."""
    attributes = {"envvar": envvar, "metavar": metavar, "show_default": show_default}
    return Described(True, text, names, minimum, maximum, attributes)  # noqa: FBT003 - a named tuple's first field


class Command(click.Command):
    """A command with the parameters of its function's signature."""

    def __init__(self, name: str | None, callback: Callable[..., Any], **attributes: Any) -> None:
        attributes["help"] = inspect.getdoc(callback)
        attributes["params"] = parameters_of(callback)
        super().__init__(name, callback=callback, **attributes)


class Group(click.Group):
    """A group of commands, in the order of their definition. Without a command it prints its help."""

    command_class = Command

    def __init__(self, name: str | None = None, **attributes: Any) -> None:
        super().__init__(name, no_args_is_help=True, **attributes)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names of the commands."""
        del ctx
        return list(self.commands)

    def children(self) -> dict[str, click.Command]:
        """Returns the commands by name."""
        context = click.Context(self)
        found = {name: self.get_command(context, name) for name in self.list_commands(context)}
        return {name: command for name, command in found.items() if command is not None}


def parameters_of(function: Callable[..., Any]) -> list[click.Parameter]:
    """Returns click's parameters for a function."""
    hints = get_type_hints(function, include_extras=True)
    return [_parameter(one, *get_args(hints[one.name])) for one in inspect.signature(function).parameters.values()]


def _parameter(declared: inspect.Parameter, kind: Any, described: Described) -> click.Parameter:
    if get_origin(kind) is UnionType:
        kind = next(one for one in get_args(kind) if one is not NoneType)
    several = get_origin(kind) is list
    if several:
        kind = get_args(kind)[0]
    attributes = {**described.attributes, "help": described.text}
    if declared.default is not inspect.Parameter.empty:
        default = declared.default
        attributes["default"] = default.value if isinstance(default, StrEnum) else default
    if described.is_option:
        names = described.names or ("--" + declared.name.replace("_", "-"),)
        if kind is bool:
            attributes["is_flag"] = True
        else:
            attributes |= {"type": _type(kind, described), "multiple": several}
            attributes["required"] = declared.default is inspect.Parameter.empty
        return click.Option([declared.name, *names], callback=_caller(kind, several=several), **attributes)
    attributes |= {"type": _type(kind, described), "nargs": -1 if several else 1}
    if several:
        attributes["required"] = declared.default is inspect.Parameter.empty
    return click.Argument([declared.name], callback=_caller(kind, several=several), **attributes)


def _type(kind: type, described: Described) -> click.ParamType[Any] | type:
    """Returns the type with which click converts a text."""
    if kind is Path:
        return click.Path(path_type=Path)
    if issubclass(kind, StrEnum):
        return click.Choice([one.value for one in kind])
    if kind in (int, float):
        number: Any = click.IntRange if kind is int else click.FloatRange
        return cast("click.ParamType[Any]", number(described.minimum, described.maximum))
    return kind


def _caller(kind: Any, *, several: bool) -> Callable[[click.Context, click.Parameter, Any], Any] | None:
    """Returns a function that converts click's values: a text to its enum member, a tuple to a list."""
    if several:
        return lambda _context, _parameter, values: list(values) or None
    if issubclass(kind, StrEnum):
        return lambda _context, _parameter, value: None if value is None else kind(value)
    return None
