"""The configuration: every mistake is named with its key, and what is shipped loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from resources.errors import Refused
from resources.settings import (
    ConfigurationError,
    Settings,
    _with_environment,
    load_settings,
    parse_settings,
)

CONFIG = Path(__file__).resolve().parents[2] / "config"
COLUMNS = {
    "order_id": "Order",
    "part_number": "Part",
    "order_date": "Date",
    "quantity": "Qty",
    "unit_price": "Price",
}


def content(source: dict[str, Any] | None = None, **others: Any) -> dict[str, Any]:
    files = {"name": "shop", "files": "landing/*.csv", "columns": COLUMNS}
    return {
        "lakehouse_root": "lakehouse",
        "first_month": 202201,
        "sources": [files | (source or {})],
    } | others


def mistakes(written: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        parse_settings(written, Path("/etc/shop.yaml"))
    return [line.strip() for line in str(refused.value).splitlines()[1:]]


def test_every_mistake_is_named_with_its_key() -> None:
    """Three mistakes in three sections are three lines, and the first line says how many and
    where.
    """
    with pytest.raises(ConfigurationError) as refused:
        parse_settings(
            content({"mode": "apend"}, first_month=202213, forecast={"horizon": 0}),
            Path("/etc/shop.yaml"),
        )
    first, *lines = str(refused.value).splitlines()
    assert first == "/etc/shop.yaml: 3 mistake(s) in the configuration"
    assert lines[0] == "  first_month: '202213' is not a month; write yyyymm, for instance 201109"
    assert lines[1].startswith("  forecast.horizon: ")
    assert lines[2].startswith("  sources.0.mode: ")
    assert "'append'" in lines[2]


def test_what_is_missing_is_named() -> None:
    """An empty configuration lacks exactly the keys without a default."""
    assert mistakes({}) == ["first_month: missing", "lakehouse_root: missing", "sources: missing"]


@pytest.mark.parametrize(
    "written",
    [
        content(),
        content({"format": "json", "json": {"path": "orders[].lines[]"}}),
        content(
            {"line_types": {"sale": ["Order"]}, "columns": COLUMNS | {"line_type": "Type"}},
            renamed_parts={"OLD": {"to": "NEW", "from": 202401}},
        ),
        *(
            yaml.safe_load(_with_environment(file.read_text(encoding="utf-8"), {}, file))
            for file in sorted(CONFIG.glob("*.yaml"))
        ),
    ],
    ids=lambda written: ",".join(written["sources"][0])[:40],
)
def test_settings_are_made_of_their_content_again(written: dict[str, Any]) -> None:
    """What a held-out run or a replay is configured by is what the configuration said."""
    settings = parse_settings(written, CONFIG / "any.yaml")
    again = parse_settings(settings.content(), Path("/etc/other.yaml"))
    assert again.content() == settings.content()


def test_a_mistake_within_a_source_is_one_line() -> None:
    """A source that can't be used is not also reported as no source at all."""
    assert mistakes(content({"name": "my shop"})) == [
        "sources.0.name: 'my shop' is not a valid name; use letters, digits and underscores,"
        " starting with a letter"
    ]


@pytest.mark.parametrize(
    ("written", "line"),
    [
        (content(forecst={}), "forecst: unknown key; did you mean forecast?"),
        (content(forecast={"horizn": 6}), "forecast.horizn: unknown key; did you mean horizon?"),
        (
            content({"date_format": ["yyyy"]}),
            "sources.0.date_format: unknown key; did you mean date_formats?",
        ),
        (
            content({"rules": {"product_patern": "^P"}}),
            "sources.0.rules.product_patern: unknown key; did you mean product_pattern?",
        ),
        (content(schemas={"xyz": "s"}), "schemas.xyz: unknown key; known: bronze, silver, gold"),
    ],
)
def test_an_unknown_key_is_refused_with_the_one_meant(written: dict[str, Any], line: str) -> None:
    """The suggestion comes from the keys of the same section."""
    assert mistakes(written) == [line]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            {"columns": COLUMNS | {"part_no": "Part"}},
            "sources.0.columns: unknown column 'part_no'; did you mean part_number?",
        ),
        (
            {"columns": {k: v for k, v in COLUMNS.items() if k != "quantity"}},
            "sources.0.columns: no source column named for quantity",
        ),
        (
            {"columns": COLUMNS | {"order_id": []}},
            "sources.0.columns.order_id: Tuple should have at least 1 item",
        ),
        (
            {"date_formats": ["%d/%m/%Y"]},
            "sources.0.date_formats.0: '%d/%m/%Y' is not a date format; write it like dd/MM/yyyy",
        ),
        (
            {"date_formats": ["YYYY-MM-dd"]},
            "sources.0.date_formats.0: 'YYYY-MM-dd' is not a date format: Y is no date field",
        ),
        (
            {"rules": {"product_pattern": "("}},
            "sources.0.rules.product_pattern: '(' is not a regular expression",
        ),
        (
            {"csv": {"encoding": "latin-99"}},
            "sources.0.csv.encoding: 'latin-99' is not an encoding",
        ),
        (
            {"thousands_separator": "."},
            "sources.0: thousands_separator and decimal_separator are the same sign",
        ),
        ({"mode": "adopt"}, "sources.0: mode adopt reads an existing table: give table"),
        ({"files": None}, "sources.0: mode append reads files: give files"),
        (
            {"mode": "adopt", "files": None, "table": "orders"},
            "sources.0: table 'orders' is not of the form catalog.schema.table",
        ),
    ],
)
def test_a_mapping_that_cannot_be_read_by_is_refused(source: dict[str, Any], told: str) -> None:
    """A source says what is wrong with it before any file is read."""
    (line,) = mistakes(content(source))
    assert line.startswith(told)


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ({"last_month": 202112}, "last_month 202112 lies before first_month 202201"),
        ({"schemas": {"silver": "my_gold"}}, "bronze, silver and gold need three different names"),
        ({"forecast": {"origins": 2, "k_min": 3}}, "k_min (3) is larger than origins (2)"),
        ({"sources": content()["sources"] * 2}, "the name shop is used twice"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(others: dict[str, Any], told: str) -> None:
    """What each key allows can still be impossible together."""
    (line,) = mistakes(content(**others))
    assert told in line


def test_a_value_of_the_wrong_kind_is_one_line() -> None:
    """Of a key that takes several kinds of value all are named in one line."""
    (line,) = mistakes(content(spark={"conf": {"spark.driver.memory": ["4g"]}}))
    assert line.startswith("spark.conf.spark.driver.memory: Input should be a valid string or ")


def test_the_environment_fills_in_values(tmp_path: Path) -> None:
    """A variable is taken, its default where it is not set, and a comment is left alone."""
    file = tmp_path / "shop.yaml"
    file.write_text(
        yaml.safe_dump(content(lakehouse_root="${ROOT:-/srv/lake}", catalog="${CATALOG}"))
        + "# ${NOWHERE}\n",
        encoding="utf-8",
    )
    settings = load_settings(file, {"CATALOG": "sales"})
    assert (settings.lakehouse_root, settings.catalog) == ("/srv/lake", "sales")
    assert (
        load_settings(file, {"CATALOG": "sales", "ROOT": "/mnt/lake"}).lakehouse_root == "/mnt/lake"
    )


def test_a_variable_that_is_not_set_is_named(tmp_path: Path) -> None:
    """Without a default the error says which variable to set."""
    file = tmp_path / "shop.yaml"
    file.write_text(yaml.safe_dump(content(lakehouse_root="${ROOT}")), encoding="utf-8")
    with pytest.raises(
        ConfigurationError, match=r"\$\{ROOT\} has no value; set the environment variable ROOT"
    ):
        load_settings(file, {})


def test_relative_paths_are_relative_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the process runs changes nothing; absolute paths stay as they are."""
    (tmp_path / "config").mkdir()
    monkeypatch.chdir("/")
    settings = parse_settings(
        content({"files": "../landing/*.csv"}, lakehouse_root="/mnt/lake"),
        tmp_path / "config" / "shop.yaml",
    )
    assert settings.sources[0].files == str(tmp_path / "landing" / "*.csv")
    assert settings.lakehouse_root == "/mnt/lake"


@pytest.mark.parametrize(
    ("address", "instead"),
    [
        ("s3://bucket/orders/*.csv", "/Volumes/<catalog>/<schema>/<volume>/"),
        ("s3a://bucket/orders/*.csv", "/Volumes/<catalog>/<schema>/<volume>/"),
        ("abfss://c@account.dfs.core.windows.net/orders", "/Volumes/<catalog>/<schema>/<volume>/"),
        ("gs://bucket/orders", "mount the store"),
        ("dbfs:/FileStore/orders/*.csv", "/dbfs/"),
        ("https://host/orders.csv", "put the files into a folder"),
        ("file:///srv/orders/*.csv", "write the path alone"),
    ],
)
def test_an_address_where_only_paths_are_read_is_refused(address: str, instead: str) -> None:
    """Files of a source, of parts and of the simulation, the root and MLflow's file: each key is
    named, with what to write.
    """
    written = content(
        {"files": address},
        lakehouse_root=address,
        parts_master={"files": address, "part_number": "Part"},
        simulation={"folder": address},
        mlflow={"tracking_uri": f"sqlite:///{address}", "registry_uri": f"sqlite:///{address}"},
    )
    lines = mistakes(written)
    assert [line.split(": ", 1)[0] for line in lines] == [
        "lakehouse_root",
        "mlflow.registry_uri",
        "mlflow.tracking_uri",
        "parts_master.files",
        "simulation.folder",
        "sources.0.files",
    ]
    assert all(instead in line for line in lines)


@pytest.mark.parametrize(
    "path",
    ["/Volumes/shop/raw/orders/*.csv", "/dbfs/orders", "landing/a:b/*.csv", "C:/orders/*.csv"],
)
def test_a_path_is_no_address(path: str) -> None:
    """A Volume, a mount and a colon within a name are paths like others."""
    assert parse_settings(content({"files": path}), Path("/etc/shop.yaml")).sources[0].files


@pytest.mark.parametrize(
    ("written", "registry"),
    [
        ({}, "sqlite:////lake/mlflow.db"),
        ({"tracking_uri": "http://host"}, "http://host"),
        ({"tracking_uri": "databricks", "experiment": "/Shared/demand"}, "databricks-uc"),
        (
            {"tracking_uri": "databricks://prod", "experiment": "/Shared/demand"},
            "databricks-uc://prod",
        ),
        (
            {
                "tracking_uri": "databricks",
                "registry_uri": "http://host",
                "experiment": "/Shared/demand",
            },
            "http://host",
        ),
    ],
)
def test_models_are_registered_where_their_name_belongs(
    written: dict[str, str], registry: str
) -> None:
    """Beside the runs, but in Unity Catalog where those are in a Databricks workspace."""
    assert (
        parse_settings(
            content(lakehouse_root="/lake", mlflow=written), Path("/etc/shop.yaml")
        ).registry_uri
        == registry
    )


def test_an_experiment_of_a_workspace_needs_a_folder() -> None:
    """The refusal gives the reason and a name that is possible."""
    (line,) = mistakes(content(mlflow={"tracking_uri": "databricks"}))
    assert line.startswith(
        "mlflow: experiment 'demand_forecasting' is no absolute path; on Databricks"
    )
    assert "/Shared/demand_forecasting" in line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sources: [", "not valid YAML"),
        ("- a\n- b\n", "expected keys such as sources and lakehouse_root, found list"),
        ("", "expected keys such as sources and lakehouse_root, found NoneType"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str, told: str) -> None:
    """The error names the file and what was found."""
    file = tmp_path / "shop.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=told) as refused:
        load_settings(file, {})
    assert str(file) in str(refused.value)


def test_a_mistake_in_yaml_does_not_tell_what_the_line_holds(tmp_path: Path) -> None:
    """The place is named; the line itself may hold a value that the environment keeps secret."""
    file = tmp_path / "shop.yaml"
    file.write_text(
        "lakehouse_root: x\nmlflow: {tracking_uri: 'http://me:${PASSWORD}@host\n", encoding="utf-8"
    )
    with pytest.raises(ConfigurationError, match=r"not valid YAML in line 2, column") as refused:
        load_settings(file, {"PASSWORD": "hush"})
    assert "hush" not in str(refused.value)
    assert refused.value.__suppress_context__


def test_a_refusal_shows_no_credentials() -> None:
    """User and password of an address are cut out of every message."""
    assert (
        str(Refused("http://me:hush@host:5000/x and postgresql://me@db refuse"))
        == "http://***@host:5000/x and postgresql://***@db refuse"
    )


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The error says which variable names the configuration."""
    with pytest.raises(
        ConfigurationError,
        match=r"gone\.yaml: the configuration can't be read .* set MEDALLION_CONFIG",
    ):
        load_settings(tmp_path / "gone.yaml", {})


@pytest.mark.parametrize("file", sorted(CONFIG.glob("*.yaml")), ids=lambda file: file.name)
def test_what_is_shipped_loads(file: Path) -> None:
    """Both configurations are valid, below absolute paths."""
    settings = load_settings(file, {})
    assert isinstance(settings, Settings)
    assert all(
        Path(path).is_absolute()
        for path in (settings.lakehouse_root, *(str(source.files) for source in settings.sources))
    )


def test_the_shipped_mapping_knows_both_names_of_a_column() -> None:
    """The two yearly extracts of Online Retail II call the same thing differently."""
    (source,) = load_settings(
        CONFIG / "online_retail_ii.yaml", {"MEDALLION_ORDERS": "/data"}
    ).sources
    assert source.candidates("order_id") == ("Invoice", "InvoiceNo")
    assert source.candidates("region") == ("Country",)
    assert source.files == "/data/*.parquet"


def test_a_search_that_is_gone_is_no_mistake(caplog: pytest.LogCaptureFixture) -> None:
    """A configuration of a former release is read without it, and a warning says what to do."""
    settings = parse_settings(
        content(zoo={"models": ["ses"], "tuning": {"trials": 0}}), Path("/etc/shop.yaml")
    )
    assert settings.zoo.models == ("ses",)
    assert "zoo.tuning is not read any more" in caplog.text
