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
