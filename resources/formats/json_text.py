"""JSON: one object a line, or order lines somewhere within one text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from resources.formats import table
from resources.formats.contents import Content, UnreadableFile, text_of
from resources.formats.table import (
    SHOWN_LINES,
    Batches,
    Columns,
    by_column,
    first_line,
    is_broken,
    printable,
    valid_names,
)
from resources.settings import Source

RAW_SIGNS = 100_000
LOOKED_INTO = 50  # elements of an array in which others are looked for


class _Number(float):
    """A JSON number that keeps its text as delivered."""

    text: str

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.text = text
        return number


def _json_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, _Number):
        return value.text
    return (
        json.dumps(value, ensure_ascii=False)
        if isinstance(value, dict | list | bool)
        else str(value)
    )


def _json_objects(
    content: Content, source: Source
) -> Iterator[tuple[int, str | None, str | None, dict[str, Any]]]:
    """Line number, problem, raw text and object of every line that is not blank."""
    with text_of(content, source.csv, newline=None) as stream:
        for number, text in enumerate(stream, 1):
            if not text.strip():
                continue
            problem, row = None, {}
            if not text.isascii() and is_broken(text):
                problem = f"unreadable: not {source.csv.encoding} text"
            else:
                try:
                    row = json.loads(text, parse_float=_Number)
                    if not isinstance(row, dict):
                        problem = "unreadable: not a JSON object"
                    elif "\\ud" in text.lower():
                        json.dumps(row, ensure_ascii=False).encode()
                except (ValueError, RecursionError) as error:
                    problem = f"unreadable: {first_line(error)}"
            yield (
                number,
                problem,
                printable(text.rstrip("\r\n")) if problem else None,
                {} if problem else row,
            )


def columns_of_lines(content: Content, source: Source) -> Columns:
    """Columns of a file of one JSON object a line: all that a line names. Raises UnreadableFile."""
    if source.json_path.path:
        return columns_of_text(content, source)
    names = tuple(
        dict.fromkeys(name for _, _, _, row in _json_objects(content, source) for name in row)
    )
    if not names:
        raise UnreadableFile(
            f"{content.name}: no line holds a JSON object; check the format of source {source.name}"
        )
    return Columns(names)


def lines(content: Content, source: Source) -> Batches:
    """Lines of such a file, with what is wrong with each."""
    if source.json_path.path:
        return (yield from rows_of_text(content, source))
    objects = _json_objects(content, source)
    names: dict[str, None] = {}
    number = 0
    while chunk := list(itertools.islice(objects, table.BATCH_LINES)):
        numbers, problems, raws, rows = (list(column) for column in zip(*chunk, strict=True))
        # Of the whole file so far: a name must not mean another column in a later batch.
        names.update(dict.fromkeys(itertools.chain.from_iterable(rows)))
        values = {}
        for new, old in zip(valid_names(list(names)), names, strict=True):
            values[new] = [_json_text(row.get(old)) for row in rows]
        number = numbers[-1]
        yield numbers, problems, raws, values
    return number


@dataclass(frozen=True)
class _Step:
    """One step of a path into JSON: the value of a key, or each element of the array there."""

    name: str
    is_array: bool


def _steps(path: str) -> list[_Step]:
    """The steps of a path; the first is the whole text."""
    parts = path.split(".") if path else []
    first = _Step("", is_array=parts[:1] == ["[]"])
    further = parts[1:] if first.is_array else parts
    return [first, *(_Step(part.removesuffix("[]"), part.endswith("[]")) for part in further)]


class _Nested:
    """The objects that a path into a JSON text leads to, each with the fields of those around it.

    A field has its own name. Where objects of two levels have one of the same name, the outer one's
    is called by its level, for instance orders.id; the inner one's may be, too.
    """

    def __init__(self, content: Content, source: Source) -> None:
        self._content, self._source = content, source
        path = source.json_path.path
        self._steps = _steps(f"[].{path}" if source.format == "jsonl" else path)
        self.problems: list[str | None] = []
        self.raws: list[str | None] = []
        self._found: list[list[dict[str, Any]]] = []
        root = self._whole()
        self._check_path(root)
        first, *further = self._steps
        for value in self._elements(root, first.is_array, []):
            self._descend(value, further, [])
        self.names = self._named()

    def _whole(self) -> Any:
        if self._source.format == "jsonl":
            objects = _json_objects(self._content, self._source)
            return [raw if problem else row for _, problem, raw, row in objects]
        with text_of(self._content, self._source.csv, newline=None) as stream:
            text = stream.read()
        try:
            return json.loads(text, parse_float=_Number)
        except json.JSONDecodeError as error:
            is_lines = error.msg == "Extra data" and text[: error.pos].count("\n") > 0
            raise UnreadableFile(
                f"{self._content.name}: line {error.lineno}: {error.msg}; the file is no JSON text,"
                " or not whole" + ("; one object a line is format: jsonl" if is_lines else "")
            ) from error
        except (ValueError, RecursionError) as error:
            raise UnreadableFile(
                f"{self._content.name}: the JSON text can't be read ({first_line(error)})"
            ) from error

    def _check_path(self, root: Any) -> None:
        if self._source.json_path.path:
            return
        if isinstance(root, list):
            self._steps = [_Step("", True)]
        else:
            found = list(dict.fromkeys(arrays_of_objects(root, "", 4)))[:SHOWN_LINES]
            raise UnreadableFile(
                f"{self._content.name}: the order lines lie somewhere in an object; set"
                f" sources.{self._source.name}.json.path"
                + (f" to one of: {', '.join(found)}" if found else "; it holds no array of objects")
            )

    def _elements(self, value: Any, is_array: bool, around: list[dict[str, Any]]) -> list[Any]:
        if value is None:
            return []
        if not is_array:
            return [value]
        if isinstance(value, list):
            return value
        self._set_aside("an object or value where the path says []", value, around)
        return []

    def _descend(self, value: Any, steps: list[_Step], around: list[dict[str, Any]]) -> None:
        if not isinstance(value, dict):
            self._set_aside("not a JSON object", value, around)
            return
        around = [*around, value]
        if not steps:
            self._found.append(around)
            self.problems.append(None)
            self.raws.append(None)
            return
        step, *further = steps
        for element in self._elements(value.get(step.name), step.is_array, around):
            self._descend(element, further, around)

    def _set_aside(self, problem: str, value: Any, around: list[dict[str, Any]]) -> None:
        self._found.append(around)
        self.problems.append(f"unreadable: {problem}")
        self.raws.append(printable(json.dumps(value, ensure_ascii=False))[:RAW_SIGNS])

    def _levels(self) -> list[str]:
        return [step.name or "root" for step in self._steps]

    def _own_fields(self, objects: list[dict[str, Any]], level: int) -> dict[str, Any]:
        """Fields of one level, those of objects within it as object.field."""
        below = self._steps[level + 1].name if level + 1 < len(self._steps) else None
        return dict(_flat(objects[level], "", {below} if below else set()))

    def _named(self) -> dict[str, tuple[int, str]]:
        """Name of a column -> its level and field there, in the order of the innermost level
        first.
        """
        fields: list[dict[str, None]] = [{} for _ in self._steps]
        for objects in self._found:
            for level in range(len(objects)):
                fields[level].update(dict.fromkeys(self._own_fields(objects, level)))
        mapped = {
            name
            for canonical in self._source.columns
            for name in self._source.candidates(canonical)
        }
        names: dict[str, tuple[int, str]] = {}
        levels = self._levels()
        for level in reversed(range(len(fields))):
            for field in fields[level]:
                others = [at for at, own in enumerate(fields) if at != level and field in own]
                full = f"{levels[level]}.{field}"
                if others and field in mapped:
                    told = " or ".join(f"{levels[at]}.{field}" for at in sorted([level, *others]))
                    raise UnreadableFile(
                        f"{self._content.name}: {field} is a field of more than one level of"
                        f" {self._source.json_path.path}; write {told} in the mapping of source"
                        f" {self._source.name}"
                    )
                is_outer = any(at > level for at in others)
                names[full if is_outer or full in mapped else field] = (level, field)
        if not names:
            raise UnreadableFile(
                f"{self._content.name}: nothing lies at {self._source.json_path.path or '[]'}, the"
                f" json.path of source {self._source.name}"
            )
        return names

    def rows(self) -> Iterator[tuple[int, str | None, str | None, list[str | None]]]:
        """Number, problem, raw text and values of each object found, in order of ``names``."""
        nothing: list[str | None] = [None] * len(self.names)
        found = zip(self._found, self.problems, self.raws, strict=True)
        for number, (objects, problem, raw) in enumerate(found, 1):
            if problem is None:
                own = [self._own_fields(objects, level) for level in range(len(objects))]
                values = [_json_text(own[level].get(field)) for level, field in self.names.values()]
                if any(value and not value.isascii() and is_broken(value) for value in values):
                    problem = f"unreadable: not {self._source.csv.encoding} text"
                    raw = printable(json.dumps(objects[-1], ensure_ascii=False))
            yield number, problem, raw, nothing if problem else values


def _flat(fields: Mapping[str, Any], before: str, left_out: Container[str]) -> Iterator[Any]:
    for name, value in fields.items():
        if not before and name in left_out:
            continue
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{name}.", ())
        else:
            yield f"{before}{name}", value


def arrays_of_objects(value: Any, path: str, depth: int) -> Iterator[str]:
    """Paths to arrays of objects."""
    if isinstance(value, list):
        objects = [element for element in value[:LOOKED_INTO] if isinstance(element, dict)]
        if objects:
            yield f"{path}[]"
        for element in objects if depth else ():
            yield from _arrays_within(element, f"{path}[]", depth)
    elif isinstance(value, dict) and depth:
        yield from _arrays_within(value, path, depth)


def _arrays_within(fields: Mapping[str, Any], path: str, depth: int) -> Iterator[str]:
    for name, value in fields.items():
        yield from arrays_of_objects(value, f"{path}.{name}" if path else name, depth - 1)


def columns_of_text(content: Content, source: Source) -> Columns:
    """Columns of one JSON document. Raises UnreadableFile."""
    return Columns(tuple(_Nested(content, source).names))


def rows_of_text(content: Content, source: Source) -> Batches:
    """Order lines of one JSON document, with what is wrong with each."""
    nested = _Nested(content, source)
    rows, names = nested.rows(), valid_names(list(nested.names))
    number = 0
    while chunk := list(itertools.islice(rows, table.BATCH_LINES)):
        numbers, problems, raws, values = (list(column) for column in zip(*chunk, strict=True))
        number = numbers[-1]
        yield numbers, problems, raws, by_column(names, values)
    return number
