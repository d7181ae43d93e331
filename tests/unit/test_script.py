"""Scripts as they are written and as the store runs them: includes are there, constants are numbers."""

import re
from importlib import resources

import pytest

from gateway.store.script import Script

NAMES = sorted(
    file.name.removesuffix(".lua")
    for file in resources.files("gateway.store").joinpath("scripts").iterdir()
    if re.search(r"_v\d+\.lua$", file.name)
)


def test_a_constant_is_written_as_its_number() -> None:
    source = Script.from_text(
        "a", "local ONE, TWO = 1, 22 -- of them\nlocal x = { ONE, scope[TWO], ONE_MORE }\n"
    ).source
    assert source == "\nlocal x = { 1, scope[22], ONE_MORE }\n"


def test_strings_and_comments_keep_their_words() -> None:
    text = "local TIME = 5\nredis.call('TIME', \"TIME\", 'it\\'s TIME', TIME) -- TIME\n"
    assert Script.from_text("a", text).source == "\nredis.call('TIME', \"TIME\", 'it\\'s TIME', 5) -- TIME\n"


def test_a_constant_has_one_value() -> None:
    assert Script.from_text("a", "local A = 1\nlocal A = 1\nreturn A\n").source.endswith("return 1\n")
    with pytest.raises(ValueError, match="the constant A is 1 and 2"):
        Script.from_text("a", "local A = 1\nlocal A = 2\n")


@pytest.mark.parametrize("name", NAMES)
def test_no_script_of_ours_has_a_constant_or_an_include_left(name: str) -> None:
    code = Script.load(name).source
    assert not re.search(r"^local [A-Z_, ]+ = \d", code, re.MULTILINE)
    assert "--@include" not in Script.load(name).source


_NO_CODE = re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"|--[^\n]*")
_DECLARED = re.compile(r"\blocal (?!function)([\w, ]+)|\bfor ([\w, ]+?) (?:=|in\b)|\bfunction ?(\w*) ?\(([\w, .]*)\)")
_USED = re.compile(r"(?<![.:\w])[A-Za-z_]\w*")
_KNOWN = """
and break do else elseif end false for function if in local nil not or repeat return then true until while
KEYS ARGV redis cjson cmsgpack struct string math table unpack type tonumber tostring pairs ipairs next pcall select
"""


def undeclared(code: str) -> set[str]:
    """The names that a script uses and nowhere declares. The store stops a script when it comes to such a name."""
    bare = _NO_CODE.sub("", code)
    declared = {word for found in _DECLARED.findall(bare) for part in found for word in re.findall(r"\w+", part)}
    fields = set(re.findall(r"[{,]\s*(\w+) = ", bare))  # of tables: { name = value }
    return set(_USED.findall(bare)) - declared - fields - set(_KNOWN.split())


def test_a_name_that_is_nowhere_declared_is_found() -> None:
    code = "local a, b = 1, 2 -- c\nlocal function f(g, ...) return g.h + b['i'] end\n"
    assert undeclared(f"{code}for j, k in pairs(a) do f(j, L) end\n") == {"L"}


@pytest.mark.parametrize("name", NAMES)
def test_scripts_use_no_name_that_they_do_not_declare(name: str) -> None:
    assert undeclared(Script.load(name).source) == set()
