"""Every row of the table of protections can be switched off, and names a test that there is."""

from typing import Final

import pytest

from tests.support.deploy_protections import DEPLOY_PROTECTIONS
from tests.support.growth_protections import GROWTH_PROTECTIONS
from tests.support.hold_protections import HOLD_PROTECTIONS
from tests.support.program import ROOT
from tests.support.protections import PROTECTIONS, Protection
from tests.support.queue_protections import QUEUE_PROTECTIONS
from tests.support.response_protections import RESPONSE_PROTECTIONS
from tests.support.state_protections import STATE_PROTECTIONS
from tests.support.wire_protections import WIRE_PROTECTIONS

EVERY: Final = (
    *PROTECTIONS,
    *DEPLOY_PROTECTIONS,
    *GROWTH_PROTECTIONS,
    *HOLD_PROTECTIONS,
    *QUEUE_PROTECTIONS,
    *RESPONSE_PROTECTIONS,
    *STATE_PROTECTIONS,
    *WIRE_PROTECTIONS,
)


@pytest.mark.parametrize("row", EVERY, ids=lambda row: row.name)
def test_a_protection_stands_once_where_its_row_says_and_has_its_test(row: Protection) -> None:
    source = (ROOT / row.file).read_text(encoding="utf-8")
    assert source.count(row.text) == 1
    assert row.text != row.instead
    path, _, name = row.test.partition("::")
    assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8") if name else (ROOT / path).exists()


def test_no_two_rows_have_one_name() -> None:
    assert len({row.name for row in EVERY}) == len(EVERY)
