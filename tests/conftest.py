"""What every test shares: settings of hypothesis and of the interpreter.

Hypothesis is bounded by examples, not by the clock, and repeats itself in CI.
"""

import os
import sys

from hypothesis import settings

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# Tests start some two hundred Python processes. Where compiled modules are not kept (container images often say so), each
# of them compiles every library anew: 1 to 5 s of CPU time for a gateway that otherwise starts in 0.8 s.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
