"""Who may import whom, read from the source: pure code stays pure, side effects and machine details
stay where they belong.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ASSETS = "medallion_assets"
SPARK_HOME = "resources/spark.py"
# Registering, reading and writing by the assets; everything else in zoo/ is a model family or pure.
ZOO_WIRING = {
    "assets",
    "backtest",
    "fitting",
    "reading",
    "sampling",
    "row_source",
    "packaged",
    "registry",
    "model_file",
}
IMPURE = {
    "dagster",
    "dagster_deltalake",
    "dagster_mlflow",
    "dagster_pyspark",
    "mlflow",
    "deltalake",
    "delta",
    "os",
}
# Values that a transform may name: settings it is given, refusals it raises, and how columns are
# called.
PURE_MAY_USE = {"resources.settings", "resources.errors", "resources.orders"}


@cache
def tracked_files() -> tuple[str, ...]:
    """Files of the checkout that are not ignored; the test is skipped where there is no
    checkout.
    """
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return tuple(name for name in listed.stdout.splitlines() if (ROOT / name).is_file())


def sources(*folders: str) -> list[str]:
    return sorted(
        str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*.py")
    )


@cache
def tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), file)


def imported(file: str) -> set[str]:
    """Modules and names that a file imports anywhere, dotted; relative imports are made
    absolute.
    """
    found: set[str] = set()
    package = file.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def top_level(file: str) -> set[str]:
    return {name.split(".")[0] for name in imported(file)}


def attributes(file: str) -> Iterator[tuple[str, str]]:
    """Attribute accesses as (object, attribute), the object empty where it is no plain name."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Attribute):
            yield node.value.id if isinstance(node.value, ast.Name) else "", node.attr


def is_within(name: str, *modules: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def reads_environment(file: str) -> bool:
    return any(
        pair in {("os", "environ"), ("os", "getenv"), ("os", "putenv")} for pair in attributes(file)
    ) or bool(imported(file) & {"os.environ", "os.getenv"})


TRANSFORMS = [file for file in sources(ASSETS) if file.endswith("transforms.py")]
VERDICTS = [
    *(f"{ASSETS}/watch/{name}.py" for name in ("drift", "freshness", "quality", "retraining")),
    *(
        f"{ASSETS}/champion/{name}.py"
        for name in ("evaluation", "promotion", "uncertainty", "comparison", "decisions")
    ),
    *(f"{ASSETS}/served/{name}.py" for name in ("accuracy", "anomalies", "guard", "totals")),
    f"{ASSETS}/complete.py",
    f"{ASSETS}/deliveries.py",
    f"{ASSETS}/values.py",
    f"{ASSETS}/own_rules.py",
    f"{ASSETS}/silver/renames.py",
]
ZOO_PURE = [file for file in sources(f"{ASSETS}/zoo") if Path(file).stem not in ZOO_WIRING]
PURE = [
    *TRANSFORMS,
    *VERDICTS,
    *ZOO_PURE,
    *(
        f"{ASSETS}/{name}.py"
        for name in ("tables", "figures", "months", "exact", "repeats", "plots")
    ),
    *(f"{ASSETS}/report/{name}.py" for name in ("data", "watchlists", "cells", "sections", "page")),
]
WIRING = [
    file
    for file in sources(ASSETS)
    if Path(file).stem
    in {
        "assets",
        "checks",
        "sensors",
        "publishing",
        "published",
        "reporting",
        "backtest",
        "fitting",
        "reading",
        "row_source",
        "training",
        "slices",
        "table_asset",
    }
]


def test_the_lists_are_not_empty() -> None:
    """A renamed folder would otherwise pass every rule."""
    assert {Path(file).parent.name for file in TRANSFORMS} == {
        "bronze",
        "silver",
        "given",
        "served",
    }
    assert {Path(file).stem for file in ZOO_PURE} >= {
        "spec",
        "series",
        "calibration",
        "naive",
        "boosting",
    }
    assert len(WIRING) >= 10
    assert all((ROOT / file).is_file() for file in PURE)


@pytest.mark.parametrize("file", PURE)
def test_pure_code_knows_no_machinery(file: str) -> None:
    """Transforms, verdicts, evaluation, promotion, calibration and model families: no dagster,
    mlflow, deltalake or os.
    """
    assert not top_level(file) & IMPURE


@pytest.mark.parametrize("file", PURE)
def test_pure_code_reads_tables_partitions_and_its_own_field(file: str) -> None:
    """Of our own modules only other pure ones, months, and the values they are given; never the
    wiring or a resource.
    """
    allowed = (
        {source.removesuffix(".py").replace("/", ".") for source in PURE}
        | {f"{ASSETS}.partitions"}
        | PURE_MAY_USE
    )
    if file == f"{ASSETS}/tables.py":
        allowed |= {"resources.ledger", "resources.table_spec"}
    packages = {name.rpartition(".")[0] for name in allowed}
    own = {name for name in imported(file) if is_within(name, ASSETS, "resources")}
    assert {name for name in own if not is_within(name, *allowed) and name not in packages} == set()


@pytest.mark.parametrize("file", sources("resources"))
def test_resources_know_no_assets(file: str) -> None:
    """What the assets talk to does not know them."""
    assert ASSETS not in top_level(file)


@pytest.mark.parametrize("file", WIRING)
def test_wiring_knows_protocols_and_not_what_is_behind_them(file: str) -> None:
    """Assets, checks and sensors name no implementation, no entry point and no command."""
    implementations = {
        "resources.lakehouse.DeltaLakehouse",
        "resources.engines",
        "resources.writers",
        "resources.orders.LocalOrderFiles",
        "resources.reports.LocalReportFiles",
        "resources.tracking.MlflowTracking",
        "resources.registry.MlflowRegistry",
        "resources.dagster_tracking",
        "resources.spark",
        f"{ASSETS}.definitions",
        f"{ASSETS}.operations",
    }
    assert not {name for name in imported(file) if is_within(name, *implementations)}


FRONTS = tuple(f"{ASSETS}.{name}" for name in ("operations", "bench", "cli", "definitions"))


@pytest.mark.parametrize(
    "file",
    [
        file
        for file in sources(ASSETS)
        if not is_within(file.removesuffix(".py").replace("/", "."), *FRONTS)
    ],
)
def test_nothing_depends_on_the_commands(file: str) -> None:
    """operations/, bench/ and cli.py are fronts: nothing else imports them, and only they import
    the definitions.
    """
    assert not {name for name in imported(file) if is_within(name, *FRONTS)}


def test_the_environment_is_read_in_one_place() -> None:
    """environment.py reads it; the session tells Spark its Python, the connection tells MLflow to
    send no telemetry, and the servers hand it to their children.
    """
    reading = {file for file in sources(ASSETS, "resources") if reads_environment(file)}
    assert reading <= {
        f"{ASSETS}/environment.py",
        f"{ASSETS}/operations/servers.py",
        "resources/mlflow_connection.py",
        SPARK_HOME,
    }
    names = {
        node.value
        for node in ast.walk(tree(SPARK_HOME))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"[A-Z]+(_[A-Z]+)+", node.value)
    }
    assert "PYSPARK_PYTHON" in names
    assert not {name for name in names if name.startswith("MEDALLION")}


@pytest.mark.parametrize(
    "file",
    [
        name
        for name in sources(ASSETS, "resources", "scripts", "benchmarks", "tests")
        if name != SPARK_HOME
    ],
)
def test_only_what_spark_connect_offers(file: str) -> None:
    """No RDD, sparkContext, JVM handle or Spark DeltaTable outside resources/spark.py; delta-rs is
    not meant.
    """
    found = set(attributes(file))
    assert not {name for _, name in found} & {
        "rdd",
        "sparkContext",
        "_sc",
        "_jvm",
        "_jdf",
        "_jsparkSession",
        "parallelize",
    }
    assert not {name for _, name in found} & {"forPath", "forName"}
    assert "delta.tables" not in imported(file)
    assert not {"pyspark.SparkContext", "pyspark.RDD"} & imported(file)


def texts() -> Iterator[tuple[str, str]]:
    for name in tracked_files():
        try:
            yield name, (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def test_no_file_names_a_machine() -> None:
    """Paths of somebody's disk work nowhere else."""
    machine_path = re.compile(
        r"(?<![\w./}\])-])/(?:"
        + "|".join(("wo" + "rk", "ro" + "ot", "ho" + "me", "Us" + "ers"))
        + r")/\w"
    )
    assert {
        name: found.group() for name, text in texts() if (found := machine_path.search(text))
    } == {}


def test_no_file_names_a_package_registry() -> None:
    """Where packages and jars come from is the machine's business; constraints carry versions and
    no addresses.
    """
    hosts = "|".join(
        (
            "py" + "pi",
            "python" + "hosted",
            "mav" + "en",
            "arti" + "factory",
            "ne" + "xus",
            "jf" + "rog",
            "ana" + "conda",
        )
    )
    address = re.compile(
        rf"https?://[\w.@:-]*(?:{hosts})[\w.-]*|(?:extra-)?in" + r"dex[-_]url\s*[=:]\s*\S+",
        re.IGNORECASE,
    )
    assert {name: found.group() for name, text in texts() if (found := address.search(text))} == {}


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@pytest.mark.parametrize("file", sources(ASSETS, "resources"))
def test_no_comprehension_lies_inside_another(file: str) -> None:
    """One loop is read at a glance, two are not: the inner one has a name."""
    outer = [node for node in ast.walk(tree(file)) if isinstance(node, COMPREHENSIONS)]
    within = [below for node in outer for below in ast.walk(node) if below is not node]
    assert not [node.lineno for node in within if isinstance(node, COMPREHENSIONS)]
