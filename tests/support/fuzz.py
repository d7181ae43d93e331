"""`python -m tests.support.fuzz [--inputs N] [--seed S] [kind]`: random changes of saved inputs, read by every reader.

An input that breaks a promise is written to `tests/data/saved_inputs/KIND/found-...`, from where the suite repeats it,
and is the exit code's 1. Give it a name that says what it is.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
import traceback
from pathlib import Path
from typing import Final

from tests.support.any_bytes import READERS, SAVED, saved

DIALECT_FILES: Final = Path(__file__).parents[1] / "data" / "dialects"
MORE: Final = {"streams": "*.sse", "answers": "*.json", "messages": "*.sse"}
"""Kind -> what else its inputs are made of: the recorded answers of providers."""
LONGEST: Final = 3_000
TELLING: Final = (
    b"\n\n", b"\r\n", b"\r", b"\n", b"\0", b"\\u0000", b"\xff", b"\xed\xa0\x80", b'"', b"\\", b"{", b"}", b"[", b"]",
    b",",
    b"-1", b"1e999", b"9" * 20, b"0.1", b"null", b"true", b"data: ", b"event: error\n", b"data: [DONE]\n\n", b": ",
    b'"usage":', b'"type":', b'"error":', b'"input_tokens":', b'"output_tokens":', b'"prompt_tokens":', b'"model":',
    b"data:image/png;base64,", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: a\r\n",
    b"\xef\xbb\xbf",
)  # fmt: skip


def changed(source: random.Random, inputs: list[bytes]) -> bytes:
    """An input with a few of its parts taken out, doubled, or replaced by parts of others or by telling bytes."""
    data = source.choice(inputs)
    if len(data) > LONGEST:
        start = source.randrange(len(data) - LONGEST)
        data = data[start : start + LONGEST]
    for _ in range(source.randint(1, 5)):
        start = source.randint(0, len(data))
        end = min(len(data), start + source.choice((0, 0, 1, 4, 40, 400)))
        match source.randrange(5):
            case 0:
                between = b""
            case 1:
                between = data[start:end] * 2
            case 2:
                other = source.choice(inputs)
                at = source.randint(0, len(other))
                between = other[at : at + source.choice((4, 40, 400))]
            case 3:
                between = source.randbytes(source.randint(1, 8))
            case _:
                between = source.choice(TELLING)
        data = data[:start] + between + data[end:]
    return data


def inputs_of(kind: str) -> list[bytes]:
    """What the random changes of a kind begin with."""
    more = sorted(DIALECT_FILES.glob(MORE[kind])) if kind in MORE else []
    return [path.read_bytes() for path in (*saved(kind), *more)]


def save(kind: str, data: bytes) -> str:
    """Writes an input where the suite repeats it; returns the file's name."""
    path = SAVED / kind / f"found-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path.name


def fuzz(kind: str, inputs: int, seed: str) -> list[str]:
    """Reads so many inputs; returns what was found, one line each."""
    source, read = random.Random(f"{seed} {kind}"), READERS[kind]  # noqa: S311 - no secret
    found: dict[str, str] = {}  # one input for each place in the code and kind of error
    begun_with = inputs_of(kind)
    for _ in range(inputs):
        data = changed(source, begun_with)
        cuts = sorted(source.randint(0, len(data)) for _ in range(source.choice((0, 1, 3, 20))))
        try:
            read(data, cuts)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}"
            if place not in found:
                found[place] = f"{kind}: {place}: {str(error)[:200]!r}; cuts {cuts}; saved as {save(kind, data)}"
    return list(found.values())


def main() -> int:
    """Returns 0 if every input was read or refused."""
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("kind", nargs="?", choices=sorted(READERS), help="only inputs of this kind")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many, of all kinds together")
    parser.add_argument("--seed", default=str(random.randrange(1 << 32)))  # noqa: S311 - no secret
    asked = parser.parse_args()
    kinds = [asked.kind] if asked.kind else list(READERS)
    found = list[str]()
    for kind in kinds:
        began_s = time.monotonic()
        found += fuzz(kind, asked.inputs // len(kinds), asked.seed)
        took = f"{asked.inputs // len(kinds)} inputs, seed {asked.seed}, {time.monotonic() - began_s:.0f} s"
        sys.stdout.write(f"{kind}: {took}\n")
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
