"""Parquet: columns of every type as text, one form for one value."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from resources.formats import table
from resources.formats.contents import Content, UnreadableFile
from resources.formats.table import Batches, Columns, first_line, valid_names, without_exponent
from resources.settings import Source


def columns(content: Content, source: Source) -> Columns:
    """Columns of a Parquet file, from its schema. Raises UnreadableFile."""
    try:
        with content.seekable() as stream:
            return Columns(tuple(pq.read_schema(stream).names))
    except (pa.ArrowException, ValueError) as error:
        raise UnreadableFile(
            f"{content.name}: not a readable Parquet file ({first_line(error)}); deliver it again"
            " complete"
        ) from error


def lines(content: Content, source: Source) -> Batches:
    """Lines of a Parquet file, as texts."""
    with content.seekable() as stream, pq.ParquetFile(stream) as file:
        names = valid_names(file.schema_arrow.names)
        first = 1
        for batch in file.iter_batches(batch_size=table.BATCH_LINES):
            n = batch.num_rows
            nothing: list[str | None] = [None] * n
            texts = {
                name: arrow_text(column) for name, column in zip(names, batch.columns, strict=True)
            }
            yield list(range(first, first + n)), nothing, nothing, texts
            first += n
        return first - 1


def arrow_text(column: pa.Array) -> pa.Array:
    """A column as text, one form for one value.

    Whole numbers have no fraction, whatever zeros their type adds; small fractions no exponent;
    times no empty fraction of a second, and with a time zone their offset.
    """
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if (
        pa.types.is_nested(column.type)
        or pa.types.is_duration(column.type)
        or _is_binary(column.type)
    ):
        return pa.array([_object_text(value) for value in column.to_pylist()], pa.string())
    text = column.cast(pa.string())
    if pa.types.is_floating(column.type):
        # From 1e10 a double turns into text with an exponent, and a part number kept as double
        # would get another name than in a CSV.
        values = column.cast(pa.float64())
        is_whole = pc.and_(pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), 2.0**53))
        whole = pc.if_else(is_whole, values, None).cast(pa.int64()).cast(pa.string())
        text = pc.coalesce(whole, text)
        if pc.any(pc.match_substring(text, "e-")).as_py():
            text = pa.array([without_exponent(value) for value in text.to_pylist()], pa.string())
    if pa.types.is_decimal(column.type):
        if pc.any(pc.match_substring_regex(text, "[eE]")).as_py():
            text = pa.array([without_exponent(value) for value in text.to_pylist()], pa.string())
        text = pc.replace_substring_regex(text, r"\.0+$", "")
    if pa.types.is_timestamp(column.type):
        text = pc.replace_substring_regex(text, r"(\.\d*?)0+(Z|[+-]\d{2}:?\d{2})?$", r"\1\2")
        text = pc.replace_substring_regex(text, r"\.(Z|[+-]\d{2}:?\d{2})?$", r"\1")
    return text


def _is_binary(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(type_)
        or pa.types.is_large_binary(type_)
        or pa.types.is_fixed_size_binary(type_)
    )


def _object_text(value: object) -> str | None:
    if value is None:
        return None
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
