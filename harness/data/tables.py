"""Reading one table from a Parquet, CSV, TSV, JSON or JSON-lines file, with errors that name file and line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from harness.errors import DataError
from harness.study.schema_errors import nearest

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".json")
LEFT_OUT = "left_out"
"""Key in a frame's `attrs`: how many broken lines it lacks."""


def read_table(file: Path, drop_broken: bool = False) -> pd.DataFrame:
    """The table. Its index is called `line` and holds line numbers from 1 where the format has lines, else `row`, from 0.

    Raises DataError.
    """
    if not file.is_file():
        beside = [one.name for one in file.parent.glob("*")] if file.parent.is_dir() else []
        hint = nearest(file.name, beside)
        raise DataError(f"{file}: no such file{f'.{hint}' if hint else ''}")
    if file.suffix == ".parquet":
        return _read_parquet(file)
    if file.suffix in (".jsonl", ".json"):
        return _read_json(file)
    if file.suffix == ".csv":
        return _read_csv(file, drop_broken)
    if file.suffix == ".tsv":
        return read_plain_tsv(file, drop_broken=drop_broken)
    raise DataError(f"{file}: files of kind {file.suffix!r} are not read; allowed: {', '.join(SUFFIXES)}")


def read_plain_tsv(
    file: Path, columns: list[str] | None = None, drop_broken: bool = False, keep: Sequence[str] | None = None
) -> pd.DataFrame:
    """A tab-separated file as GLUE writes it: quotes are text, and every line must have as many fields as the header.

    `columns` are the names where the file has no header; of them, or of the header's, only those in `keep` are kept (MNLI's
    parse trees would fill gigabytes). A line with another number of fields is left out, its number kept for the others, if
    `drop_broken`. Raises DataError with the line number.
    """
    # only a line feed ends a line: some texts hold carriage returns and other separators that splitlines() would break at
    lines = [line.removesuffix("\r") for line in _read_text(file).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    first_line = 1
    if columns is None:
        if not lines:
            raise DataError(f"{file}: the file is empty")
        columns, lines, first_line = lines[0].split("\t"), lines[1:], 2
    return _checked_frame(file, columns, enumerate((line.split("\t") for line in lines), first_line), drop_broken, keep)


def _checked_frame(
    file: Path,
    columns: list[str],
    rows: Iterable[tuple[int, list[str]]],
    drop_broken: bool,
    keep: Sequence[str] | None = None,
) -> pd.DataFrame:
    """`rows` are pairs of line number and fields."""
    if len(columns) == 1 and (found := re.search(r"[;\t]", columns[0])):
        raise DataError(
            f"{file}: the header is one field, {columns[0]!r}: are its parts {found[0]!r} apart? A .csv has commas, a .tsv tabs"
        )
    kept = [position for position, name in enumerate(columns) if keep is None or name in keep]
    lines: list[int] = []
    fields_of: list[list[str]] = [[] for _ in kept]
    left_out = 0
    for line, fields in rows:
        if len(fields) != len(columns):
            if not drop_broken:
                raise DataError(
                    f"{file}, line {line}: {len(fields)} fields where {len(columns)} are expected ({columns}). "
                    "Mend the line, or leave such lines out with data.broken_rows: drop"
                )
            left_out += 1
            continue
        lines.append(line)
        for values, position in zip(fields_of, kept, strict=True):
            values.append(fields[position])
    frame = pd.concat(
        [pd.Series(values, dtype=object, name=columns[position]) for values, position in zip(fields_of, kept, strict=True)]
        or [pd.Series([], dtype=object)],
        axis=1,
    )
    frame.index = pd.Index(lines, name="line", dtype="int64")
    frame.attrs[LEFT_OUT] = left_out
    return frame


def _read_text(file: Path) -> str:
    """The file's text, line ends untouched."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{file}, line {line}: not UTF-8 text: {error.reason}") from error


def _read_parquet(file: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not a readable Parquet file: {error}") from error
    return frame.reset_index(drop=True).rename_axis("row")


def _read_csv(file: Path, drop_broken: bool) -> pd.DataFrame:
    text = _read_text(file)
    limit = csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # of the whole process
    # line ends inside quotes are text
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = next(reader, None)
        if columns is None:
            raise DataError(f"{file}: the file is empty")
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: not CSV: {error}") from error
    finally:
        csv.field_size_limit(limit)
    return _checked_frame(file, columns, rows, drop_broken)


def quoted_columns(frame: pd.DataFrame) -> list[str]:
    """Columns of a plain TSV most of whose fields stand in quotes, as other programs write it."""
    found = []
    for name in frame.columns:
        fields = frame[name].astype(str)
        if len(fields) and (fields.str.len().ge(2) & fields.str.startswith('"') & fields.str.endswith('"')).mean() > 0.5:
            found.append(str(name))
    return found


def _read_json(file: Path) -> pd.DataFrame:
    """An object a line, or one list of objects."""
    text = _read_text(file)
    if text.lstrip().startswith("["):
        try:
            listed = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{file}, line {error.lineno}: not JSON: {error.msg}") from error
        for number, row in enumerate(listed):
            if not isinstance(row, dict):
                raise DataError(f"{file}, row {number}: a JSON object is expected, found {type(row).__name__}")
        return pd.DataFrame(listed).rename_axis("row")
    rows, lines = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{file}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{file}, line {number}: a JSON object is expected, found {type(row).__name__}")
        rows.append(row)
        lines.append(number)
    return pd.DataFrame(rows, index=pd.Index(lines, name="line", dtype="int64"))
