"""How much the tests try: all in CI, where examples are the same every time; a quarter at a desk, where they differ.

@settings(max_examples=effort(60))
"""

import os
from typing import Final

IN_CI: Final = bool(os.environ.get("CI"))
_PART: Final = 4


def effort(number: int) -> int:
    """Returns how many of so many examples, seeds or schedules are tried."""
    return number if IN_CI else -(-number // _PART)
