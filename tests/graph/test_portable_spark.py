"""Spark code that every engine runs, and to the same bits: functions and methods that engines
disagree on, read from the source.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "medallion_assets").rglob("*.py"))

LAST_DIGIT = "engines differ in its last digit: write it as products, quotients or roots"
WINDOWS = "engines differ in what rounding leaves: take exact.deviation"
FUNCTIONS = {
    "try_divide": "not every engine divides doubles with it: take exact.ratio",
    "rint": "engines put a half to different sides: take floor(x + 0.5)",
    **dict.fromkeys(
        ("ln", "log", "log2", "log10", "log1p", "exp", "expm1", "pow", "power"), LAST_DIGIT
    ),
    **dict.fromkeys(
        ("std", "stddev", "stddev_pop", "stddev_samp", "variance", "var_pop", "var_samp"), WINDOWS
    ),
}
METHODS = {
    "cogroup": "not every engine takes NULLs in it: take zoo.buckets.apply_by_bucket",
    "persist": "an engine may ignore it and evaluate twice",
    "cache": "an engine may ignore it and evaluate twice",
}
NO_TYPE = "gives columns of no type, which Python functions refuse: add NULLs of a type"


def findings(source: str) -> Iterator[str]:
    """What a source uses and should not, each with its reason."""
    tree = ast.parse(source)
    spark = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "pyspark.sql"
        for alias in node.names
        if alias.name == "functions"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "pyspark.sql.functions":
            yield from (
                f"{alias.name}: {FUNCTIONS[alias.name]}"
                for alias in node.names
                if alias.name in FUNCTIONS
            )
        if not isinstance(node, ast.Attribute | ast.Call):
            continue
        owner, name = (node.value, node.attr) if isinstance(node, ast.Attribute) else (None, None)
        if isinstance(owner, ast.Name) and owner.id in spark and name in FUNCTIONS:
            yield f"{name}: {FUNCTIONS[name]}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield from _calls(node, node.func)


def _calls(call: ast.Call, function: ast.Attribute) -> Iterator[str]:
    if function.attr in METHODS:
        yield f"{function.attr}: {METHODS[function.attr]}"
    if function.attr == "unionByName" and (len(call.args) > 1 or call.keywords):
        yield f"unionByName with allowMissingColumns: {NO_TYPE}"
    if function.attr in ("expr", "selectExpr", "where", "filter"):
        texts = (
            arg.value
            for arg in ast.walk(call)
            if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
        )
        yield from (
            f"{name}: {FUNCTIONS[name]}"
            for text in texts
            for name in re.findall(r"\b(\w+)\(", text)
            if name in FUNCTIONS
        )


@pytest.mark.parametrize("file", SOURCES)
def test_spark_code_is_portable(file: str) -> None:
    """No function or method whose result, or whose being there at all, depends on the engine."""
    assert list(findings((ROOT / file).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("line", "name"),
    [
        *((f"F.{name}('x')", name) for name in FUNCTIONS),
        *((f"rows.{name}()", name) for name in METHODS),
        ("rows.unionByName(other, allowMissingColumns=True)", "unionByName"),
        ("F.expr('sum(stddev_pop(x))')", "stddev_pop"),
        ("F.reduce(F.exp, rows)", "exp"),
    ],
)
def test_each_rule_finds_what_it_is_for(line: str, name: str) -> None:
    """One line that breaks a rule is found once."""
    (found,) = findings(f"from pyspark.sql import functions as F\n{line}")
    assert found.startswith(name)


def test_what_only_looks_alike_is_left_alone() -> None:
    """Functions of numpy and math, and unions of frames with the same columns, are no finding."""
    lines = (
        "np.exp(x)",
        "math.log(x)",
        "np.rint(x)",
        "rows.unionByName(other)",
        "F.expr('explode(x)')",
        "F.floor(x)",
    )
    assert list(findings("\n".join(("from pyspark.sql import functions as F", *lines)))) == []
