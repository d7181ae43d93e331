"""Files that commands write: a file is either complete or absent.

with complete(path) as part: ...    what is written to `part` gets its name when the block ends well
write_parquet(path, columns, rows)  rows as Parquet
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from gateway.cli.client import Json
from gateway.cli.errors import CliError
from gateway.reporting.parquet import PackageMissing, ParquetWriter


@contextlib.contextmanager
def complete(path: Path) -> Iterator[Path]:
    """Gives the path of a part beside a file, which becomes the file at the end. Raises CliError if it cannot."""
    part = path.with_name(path.name + ".part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def parquet_writer() -> ParquetWriter:
    """Returns what writes Parquet. Raises CliError where its package is missing."""
    try:
        return ParquetWriter()
    except PackageMissing as error:
        raise CliError(str(error)) from None


def write_parquet(writer: ParquetWriter, path: Path, columns: Sequence[str], rows: Iterable[Json]) -> None:
    """Writes rows to a Parquet file. Raises CliError, and what the rows raise."""
    with complete(path) as part:
        writer.write(part, columns, rows)
