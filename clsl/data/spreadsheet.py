"""A table as spreadsheets and programs write it, CSV, TSV or JSON lines → its rows of words, or a line that says what is wrong where."""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Line and words of each row of a table that has words; a gap is None. Columns without a name and without words are none."""
    text = _text(path)
    if path.suffix == ".jsonl":
        for line, content in enumerate(re.split("\r\n|\r|\n", text), 1):
            if content.strip():
                yield line, _json_row(path, line, content)
        return
    first = re.match("sep=(.)(\r\n|\r|\n)", text)  # as Excel says what is between columns
    text, skipped = (text[first.end() :], 1) if first else (text, 0)
    header = re.split("\r\n|\r|\n", text)[0]
    delimiter = first[1] if first else max(",;\t", key=lambda each: ({*needed} <= {*_fields(header, each)}, header.count(each)))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    begun = 1 + skipped
    try:
        names = _named(next(reader, []))
        if wrong := [name for name in names if name and names.count(name) > 1]:
            raise OSError(f"{path}, line {begun}: two columns have the name {wrong[0]!r}")
        if lacking := [name for name in needed if name not in names]:
            raise OSError(f"{path} lacks the column {lacking[0]}: it has {', '.join(names) or 'nothing'}")
        while True:
            begun = reader.line_num + 1 + skipped
            if (fields := next(reader, None)) is None:
                return
            while len(fields) > len(names) and not fields[-1].strip():
                fields.pop()  # as spreadsheets write beside a table
            if any(map(str.strip, fields)) and len(fields) != len(names):
                why = f"quote what has a {delimiter!r} in it" if len(fields) > len(names) else "is the row cut off?"
                message = f"{len(fields)} fields, and {len(names)} columns: {why}"
                raise OSError(f"{path}, line {begun}: {message}")
            if any(field.strip() and not name for name, field in zip(names, fields)):
                raise OSError(f"{path}, line {1 + skipped}: a column without a name, and line {begun} has words in it")
            if any(map(str.strip, fields)):
                yield begun, {name: unicodedata.normalize("NFC", field.strip()) or None for name, field in zip(names, fields) if name}
    except csv.Error as error:
        raise OSError(f"{path}, line {begun}: {error}: is a quote left open?") from None


def _fields(header: str, delimiter: str) -> list[str]:
    return _named(next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), []))


def _named(names: Sequence[str]) -> list[str]:
    """The names of columns, of which those with a meaning may be written like File Name and LABEL."""
    plain = {name: re.sub("[ _-]", "", name.casefold()) for name in names}
    return [{"filename": "file_name", "label": "label", "group": "group", "split": "split"}.get(plain[name], name.strip()) for name in names]


def _json_row(path: Path, line: int, content: str) -> dict[str, str | None]:
    try:
        row = json.loads(content, parse_constant=lambda name: None, parse_int=str, parse_float=str, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        raise OSError(f"{path}, line {line}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise OSError(f'{path}, line {line}: must be like {{"file_name": "1.jpg", "label": "cat"}}, got {content.strip()[:40]}')
    for name, value in row.items():
        if isinstance(value, (list, dict)):
            raise OSError(f"{path}, line {line}: {name} must be a word or a number, got {json.dumps(value)[:40]}")
    words = {True: "true", False: "false", None: ""}  # of all others the text is kept as it was written
    return {name: words.get(value, value).strip() or None for name, value in row.items()}


def _once_each(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"{[name for name, _ in pairs]!r} has a name twice")
    return dict(pairs)


def _text(path: Path) -> str:
    """The text of a file in UTF-8 or UTF-16, with or without a mark of it at the start."""
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise OSError(f"{path}, line {line}: not in UTF-8: save it as UTF-8 (in a spreadsheet: CSV UTF-8)") from None
    if "\0" in text:
        raise OSError(f"{path}, line {text[: text.index(chr(0))].count(chr(10)) + 1}: not a text: save the table as CSV")
    return text
