"""Rows as a Parquet file with typed columns, for programs that analyse data. It needs the extra `parquet`.

The type of a column follows from its name, so that a file without rows has the same columns:

| name                         | type                                                                               |
|------------------------------|------------------------------------------------------------------------------------|
| `..._usd`                    | whole nano-USD, as `..._nano_usd`: sums are exact                                  |
| `at`, `start`, `..._at`      | a moment in UTC, in ms                                                             |
| `..._tokens`, `..._ms`, `requests`, `refused`, `values` | a whole number                                          |
| others                       | text                                                                               |

Rows are written as they come, in batches: a long journal takes little memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from gateway.billing.money import parse_usd

_ROWS_AT_ONCE: Final = 10_000
_COMPRESSION: Final = "zstd(3)"
_USD: Final = "_usd"
_COUNTS: Final = ("_tokens", "_ms")
_NAMED_COUNTS: Final = frozenset({"requests", "refused", "values"})
_MOMENTS: Final = frozenset({"at", "start"})


class PackageMissing(Exception):
    """The extra `parquet` is not installed."""

    def __init__(self) -> None:
        super().__init__('Parquet needs an extra: pip install "openresponses-gateway[parquet]"')


class _Column(NamedTuple):
    """A column of the file: its name, its type in Arrow, and how a value of a row becomes one of the column."""

    name: str
    type: Any
    read: Callable[[Any], int | str]


class ParquetWriter:
    """Writes rows to files. Raises PackageMissing, before anything is written."""

    def __init__(self) -> None:
        try:
            self._arrow, self._io = import_module("arro3.core"), import_module("arro3.io")
        except ImportError:
            raise PackageMissing from None

    def write(self, path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes a file with these columns. Raises what the iterable raises, and OSError."""
        typed = {name: self._column(name) for name in columns}
        schema = self._arrow.Schema([self._arrow.Field(one.name, one.type) for one in typed.values()])
        failed: list[BaseException] = []
        batches = self._batches(schema, typed, iter(rows), failed)
        try:
            with path.open("wb") as file:
                reader = self._arrow.RecordBatchReader.from_batches(schema, batches)
                self._io.write_parquet(reader, file, compression=_COMPRESSION)
        except Exception:
            if failed:  # the library has made an error of its own of it
                raise failed[0] from None
            raise

    def _batches(
        self,
        schema: Any,
        columns: Mapping[str, _Column],
        rows: Iterator[Mapping[str, Any]],
        failed: list[BaseException],
    ) -> Iterator[Any]:
        try:
            while some := list(islice(rows, _ROWS_AT_ONCE)):
                arrays = [self._array(column, [row.get(name) for row in some]) for name, column in columns.items()]
                yield self._arrow.RecordBatch.from_arrays(arrays, schema=schema)
        except GeneratorExit:
            raise
        except BaseException as error:
            failed.append(error)
            raise

    def _array(self, column: _Column, values: list[Any]) -> Any:
        read = [None if value is None else column.read(value) for value in values]
        types = self._arrow.DataType
        return self._arrow.Array(read, type=types.string() if column.read is str else types.int64()).cast(column.type)

    def _column(self, name: str) -> _Column:
        types = self._arrow.DataType
        if name.endswith(_USD):
            return _Column(f"{name.removesuffix(_USD)}_nano_usd", types.int64(), parse_usd)
        if name in _MOMENTS or name.endswith("_at"):
            return _Column(name, types.timestamp("ms", tz="UTC"), _epoch_ms)
        if name in _NAMED_COUNTS or name.endswith(_COUNTS):
            return _Column(name, types.int64(), round)
        return _Column(name, types.string(), str)


def _epoch_ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)
