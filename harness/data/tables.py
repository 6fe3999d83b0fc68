"""Reading one table from a Parquet, CSV, TSV or JSON-lines file, with errors that name file and line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd

from harness.errors import DataError

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl")


def read_table(file: Path, drop_broken: bool = False) -> pd.DataFrame:
    """The table; its index holds line numbers where the format has lines, else row numbers from 0. Raises DataError."""
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    if file.suffix == ".parquet":
        try:
            return pd.read_parquet(file)
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: not a readable Parquet file: {error}") from error
    if file.suffix == ".jsonl":
        return _read_json_lines(file)
    if file.suffix == ".csv":
        return _read_csv(file, drop_broken)
    if file.suffix == ".tsv":
        return read_plain_tsv(file, drop_broken=drop_broken)
    raise DataError(f"{file}: files of kind {file.suffix!r} are not read; allowed: {', '.join(SUFFIXES)}")


def read_plain_tsv(file: Path, columns: list[str] | None = None, drop_broken: bool = False) -> pd.DataFrame:
    """A tab-separated file as GLUE writes it: quotes are text, and every line must have as many fields as the header.

    `columns` are the names where the file has no header. A line with another number of fields is left out, its number kept
    for the others, if `drop_broken`. Raises DataError with the line number.
    """
    try:
        lines = file.read_text("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text: {error}") from error
    lines = [line.rstrip("\r") for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    if columns is None:
        if not lines:
            raise DataError(f"{file}: the file is empty")
        columns, lines, first_line = lines[0].split("\t"), lines[1:], 2
    else:
        first_line = 1
    return _checked_frame(file, columns, list(enumerate((line.split("\t") for line in lines), first_line)), drop_broken)


def _checked_frame(file: Path, columns: list[str], rows: list[tuple[int, list[str]]], drop_broken: bool) -> pd.DataFrame:
    """`rows` are pairs of line number and fields."""
    for line, fields in rows:
        if len(fields) != len(columns) and not drop_broken:
            raise DataError(
                f"{file}, line {line}: {len(fields)} fields where {len(columns)} are expected ({columns}). "
                "Mend the line, or leave such lines out with data.broken_rows: drop"
            )
    whole = [(line, fields) for line, fields in rows if len(fields) == len(columns)]
    return pd.DataFrame(
        [fields for _, fields in whole], index=[line for line, _ in whole], columns=pd.Index(columns), dtype=object
    )


def _read_csv(file: Path, drop_broken: bool) -> pd.DataFrame:
    with file.open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.reader(handle)
        try:
            columns = next(reader)
        except StopIteration:
            raise DataError(f"{file}: the file is empty") from None
        return _checked_frame(file, columns, [(reader.line_num, row) for row in reader], drop_broken)


def _read_json_lines(file: Path) -> pd.DataFrame:
    rows = []
    with file.open(encoding="utf-8") as handle:
        for number, line in enumerate(handle, 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{file}, line {number}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise DataError(f"{file}, line {number}: a JSON object is expected, found {type(row).__name__}")
            rows.append(row)
    return pd.DataFrame(rows, index=range(1, len(rows) + 1))
