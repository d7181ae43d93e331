"""Whether a regular expression is found in a text, in bounded time: no expression makes it hang.

Python's `re` backtracks, which takes exponentially long for `^([a-z]+)*[0-9]$`. This module follows all places of the
text that a part of the expression can reach at the same time, on the tree of Python's own parser. Look-behind and back
references cannot be followed in this way, and are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

parse_pattern: Final[Any] = import_module("re._parser").parse
"""The only parser of `re`'s own syntax."""
Places = frozenset[int]
_KINDS: Final = ("DIGIT", "WORD", "SPACE")


class NotFollowed(ValueError):
    """The expression contains a construct that cannot be followed."""


def found_in(pattern: str, text: str, spend: Callable[[int], None]) -> bool:
    """Whether the expression matches anywhere. `spend` is called for each step, and raises if there were too many.

    Raises re.error, OverflowError or RecursionError for what is no expression, and NotFollowed.
    """
    tree = parse_pattern(pattern)
    return bool(_Places(text, tree.state.flags, spend).behind(tree, frozenset(range(len(text) + 1))))


class _Places:
    """One search in one text."""

    def __init__(self, text: str, flags: int, spend: Callable[[int], None]) -> None:
        self._ignores_case = bool(flags & re.IGNORECASE)
        self._text = text
        self._flags = flags
        self._spend = spend

    def behind(self, parts: Any, places: Places) -> Places:
        """The places to which a sequence leads from these."""
        for op, argument in parts:
            if not places:
                break
            places = self._node(str(op), argument, places)
        return places

    def _node(self, op: str, argument: Any, places: Places) -> Places:
        self._spend(len(places) + 1)
        text = self._text
        match op:
            case "AT":
                found = frozenset(one for one in places if self._is_at(str(argument), one))
            case "BRANCH":
                found = frozenset().union(*(self.behind(branch, places) for branch in argument[1]))
            case "SUBPATTERN":
                found = self.behind(argument[-1], places)
            case "ATOMIC_GROUP":
                found = self.behind(argument, places)
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                low, high, inner = argument
                found = self._repeated(low, int(high), inner, places)
            case "ASSERT" | "ASSERT_NOT" if argument[0] > 0:
                is_wanted = op == "ASSERT"
                found = frozenset(
                    one for one in places if bool(self.behind(argument[1], frozenset((one,)))) == is_wanted
                )
            case "LITERAL" | "NOT_LITERAL" | "ANY" | "IN":
                found = frozenset(
                    one + 1 for one in places if one < len(text) and self._is_one_of(op, argument, text[one])
                )
            case _:
                raise NotFollowed(f"the simulator does not follow {op.lower()} in a pattern")
        return found

    def _repeated(self, low: int, maximum: int, inner: Any, places: Places) -> Places:
        seen: Places = frozenset() if low else places
        turn = 0
        while places and turn < maximum:
            turn += 1
            after = self.behind(inner, places)
            if turn < low and after == places:  # so it stays, however often
                turn = low
            places = after if turn < low else after - seen
            if turn >= low:
                seen |= after
        return seen

    def _is_at(self, kind: str, place: int) -> bool:
        text, last = self._text, len(self._text)
        if kind in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
            is_line = kind == "AT_BEGINNING" and bool(self._flags & re.MULTILINE) and place > 0
            return place == 0 or (is_line and text[place - 1] == "\n")
        if kind in ("AT_END", "AT_END_STRING"):
            ends_line = kind == "AT_END" and text[place:] == "\n"
            is_line = kind == "AT_END" and bool(self._flags & re.MULTILINE) and text[place : place + 1] == "\n"
            return place == last or ends_line or is_line
        before = place > 0 and holds(("CATEGORY", "CATEGORY_WORD"), text[place - 1])
        behind = place < last and holds(("CATEGORY", "CATEGORY_WORD"), text[place])
        return (before != behind) == (kind == "AT_BOUNDARY")

    def _is_one_of(self, op: str, argument: Any, char: str) -> bool:
        if op == "ANY":
            return char != "\n" or bool(self._flags & re.DOTALL)
        spellings = {char, char.lower(), char.upper()} if self._ignores_case else {char}
        if op in ("LITERAL", "NOT_LITERAL"):
            return any(len(one) == 1 and ord(one) == argument for one in spellings) == (op == "LITERAL")
        negated = str(argument[0][0]) == "NEGATE"
        parts = argument[1:] if negated else argument
        return any(holds(part, one) for part in parts for one in spellings if len(one) == 1) != negated


def holds(part: tuple[Any, Any], char: str) -> bool:
    """Whether a part of a class of characters has this one."""
    op, argument = str(part[0]), part[1]
    if op == "LITERAL":
        return ord(char) == int(argument)
    if op == "RANGE":
        return bool(argument[0] <= ord(char) <= argument[1])
    kinds = dict(zip(_KINDS, (char.isdecimal(), char.isalnum() or char == "_", char.isspace()), strict=True))
    name = str(argument).removeprefix("CATEGORY_")
    return not kinds.get(name.removeprefix("NOT_"), False) if name.startswith("NOT_") else kinds.get(name, False)
