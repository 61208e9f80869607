"""The TableSpec of every table: each column name once, with type and comment.

DDL, column schemas in the UI, blocking checks and docs/tables.md are made from these. How tables
are written lies in resources/lakehouse.py, how their rows are made in the transforms of each layer.
"""

from __future__ import annotations

import itertools

from medallion_assets.figures import FIGURES
from resources.ledger import LEDGER
from resources.table_spec import Column, Constraint, TableSpec

DATA_OWNER = "team:data-platform"
MODEL_OWNER = "team:forecasting"
BY_MONTH = (
    "writers of different months never touch each other's files, and a month is read without its"
    " neighbours"
)

DECILES = ("q10", "q20", "q30", "q40", "q50", "q60", "q70", "q80", "q90")
LEVELS = tuple(i / 10 for i in range(1, 10))
CHANGE_PARTS = ("restated_qty", "new_sales_qty", "refit_qty", "champion_qty")
DEMAND_CLASSES = ("smooth", "erratic", "intermittent", "lumpy", "new")
# Syntetos, Boylan and Croston (2005), On the categorization of demand patterns
ADI_LIMIT, CV2_LIMIT = 1.32, 0.49
LAGS = tuple(range(13))
_SHOWN_DECILES = ("q10", "q50", "q90")

_IN_ORDER = " AND ".join(f"{a} <= {b}" for a, b in itertools.pairwise(DECILES))


def _month(comment: str) -> Column:
    return Column("yyyymm", "INT", comment, is_nullable=False)


def _key(name: str, type_: str, comment: str) -> Column:
    return Column(name, type_, comment, is_nullable=False)


def _deciles(what: str) -> tuple[Column, ...]:
    return tuple(
        Column(name, "DOUBLE", f"{int(name[1:])} % quantile of {what}, units") for name in DECILES
    )


DELIVERIES = TableSpec(
    layer="bronze",
    name="deliveries",
    comment=(
        "Every file (or version of a source table) that was ever taken in, by content, and what it"
        " held. The auditor's list of what came when, and by which mapping it was read: a corrected"
        " mapping adds a record, and the newest of a delivery counts."
    ),
    grain="one record of a file by content hash, or of one version of an adopted table",
    key=("delivery_id", "record_number"),
    columns=(
        _key("delivery_id", "STRING", "first 16 hex digits of a hash of source and content"),
        _key(
            "sequence",
            "BIGINT",
            "order of registration, rising; a snapshot with a higher number replaces a lower one",
        ),
        _key("source", "STRING", "name of the source in the configuration"),
        _key(
            "file_name",
            "STRING",
            "path below the folder of the source, or name of the adopted table",
        ),
        Column(
            "content_hash", "STRING", "SHA-256 of the file's bytes, or version of the adopted table"
        ),
        Column("byte_count", "BIGINT", "size of the file, bytes"),
        Column("modified_at", "TIMESTAMP", "modification time of the file (UTC)"),
        Column("column_names", "ARRAY<STRING>", "columns as the source spells them"),
        Column(
            "new_columns", "ARRAY<STRING>", "columns that no earlier delivery of the source had"
        ),
        Column(
            "line_count", "BIGINT", "lines read, the header not counted, unreadable lines included"
        ),
        Column(
            "unreadable_line_count", "BIGINT", "lines with a wrong number of fields or broken text"
        ),
        Column(
            "months",
            "ARRAY<STRUCT<yyyymm: INT, line_count: BIGINT, last_day: INT, content_version:"
            " STRING>>",
            "lines, last day and a hash of the lines per month; month 0 holds lines of no month;"
            " months of a replaced file, and those that a corrected mapping emptied, are listed"
            " with 0 lines",
        ),
        Column("status", "STRING", "complete, or has_unreadable_lines"),
        Column(
            "grown_from",
            "STRING",
            "delivery of the same file before lines were added to it; this one supersedes it",
        ),
        Column("registered_at", "TIMESTAMP", "when it was registered (UTC)"),
        Column("run_id", "STRING", "Dagster run that made this record"),
        Column(
            "record_number",
            "BIGINT",
            "rising with every record; of a delivery's records the newest counts. NULL where an"
            " older release made it",
        ),
        Column(
            "mapping_version",
            "STRING",
            "hash of the mapping that gave its lines their months; NULL where an older release did",
        ),
        Column("mapping", "STRING", "JSON: that mapping, settings left at their defaults left out"),
        Column("mapped_at", "TIMESTAMP", "when its lines were read by that mapping (UTC)"),
    ),
    write="append",
    code_version="2",
    owner=DATA_OWNER,
    constraints=(
        Constraint(
            "counts_add_up",
            "line_count = aggregate(months, 0L, (total, m) -> total + m.line_count)",
        ),
    ),
)

BRONZE_SALES_ORDERS = TableSpec(
    layer="bronze",
    name="sales_orders",
    comment=(
        "Order lines exactly as delivered, all as text, with the source's own columns. Nothing is"
        " ever removed here; a line whose date a corrected mapping reads otherwise moves to its"
        " month."
    ),
    grain="one line as delivered",
    key=("_delivery_id", "_line_number"),
    columns=(
        _month("month of the order date; 0 where the date can't be read or is out of range"),
        _key("_source", "STRING", "name of the source in the configuration"),
        _key("_delivery_id", "STRING", "delivery that brought the line"),
        _key(
            "_line_number",
            "BIGINT",
            "line in the file; the first line after a header is 2, in files without one 1",
        ),
        _key("_row_hash", "STRING", "hash of the line's text"),
        _key("_occurrence", "INT", "the n-th identical line within its file and month"),
        Column("_problem", "STRING", "why the line is unreadable or has no month"),
        Column("_raw", "STRING", "text of an unreadable line"),
        Column("_ingested_at", "TIMESTAMP", "when its delivery was registered (UTC)"),
    ),
    write="append",
    code_version="1",
    owner=DATA_OWNER,
    partition_by=("yyyymm",),
    partition_reason=BY_MONTH,
    has_source_columns=True,
)

SILVER_SALES_ORDERS = TableSpec(
    layer="silver",
    name="sales_orders",
    comment=(
        "Accepted order lines, typed, under one set of names: what was sold, cancelled and"
        " returned."
    ),
    grain="one accepted order line",
    key=("line_id",),
    columns=(
        _month("month of the order date"),
        _key("line_id", "STRING", "hash of source, canonical text and occurrence"),
        _key("source", "STRING", "name of the source"),
        _key("delivery_id", "STRING", "delivery that brought the line first"),
        _key("line_number", "BIGINT", "line in that delivery"),
        Column(
            "order_id", "STRING", "order or invoice number; NULL where the source has no numbers"
        ),
        _key("part_number", "STRING", "part in its one spelling, upper-cased"),
        Column("customer_id", "STRING", "customer; NULL where the source names none"),
        Column("region", "STRING", "region or country of the customer"),
        _key(
            "order_date",
            "TIMESTAMP",
            "date and time of the order as printed, or in the source's time_zone; no instant",
        ),
        _key(
            "quantity",
            "DECIMAL(24,6)",
            "pieces, by the factor of the line's unit; negative for cancellations and returns",
        ),
        Column(
            "unit_price",
            "DECIMAL(24,6)",
            "price of one piece, in the source's currency; NULL where the source has no prices",
        ),
        Column("description", "STRING", "part description on the line"),
        Column(
            "part_number_text",
            "STRING",
            "part number as delivered, before it took the part's spelling or new number",
            is_versioned=False,
        ),
        _key("line_type", "STRING", "sale, cancellation or return"),
        Column(
            "matched_line_id",
            "STRING",
            "of a cancellation the sale it takes back, of that sale the cancellation; same month"
            " only",
        ),
        Column(
            "warnings",
            "ARRAY<STRING>",
            "spellings that were read as another (part_number_decimal_ending ...) and own rules"
            " that only warn; NULL for none",
        ),
    ),
    write="merge",
    code_version="2",
    owner=DATA_OWNER,
    partition_by=("yyyymm",),
    partition_reason=BY_MONTH,
    constraints=(
        Constraint("line_type_known", "line_type IN ('sale', 'cancellation', 'return')"),
        Constraint("quantity_has_sign_of_type", "(line_type = 'sale') = (quantity > 0)"),
    ),
)

REJECTED_LINES = TableSpec(
    layer="silver",
    name="rejected_lines",
    comment=(
        "Every order line that is not counted, and why: rejected by a rule, a duplicate of an"
        " earlier delivery, or superseded by a newer one."
    ),
    grain="one line as delivered that is not in silver.sales_orders",
    key=("delivery_id", "line_number"),
    columns=(
        _month("month of the order date; 0 where it has none"),
        _key("delivery_id", "STRING", "delivery that brought the line"),
        _key("line_number", "BIGINT", "line in that delivery"),
        _key("source", "STRING", "name of the source"),
        _key("line_id", "STRING", "hash of source, canonical text and occurrence"),
        _key("disposition", "STRING", "rejected, duplicate or superseded"),
        _key(
            "reasons",
            "ARRAY<STRING>",
            "names of the rules it broke, or the delivery that holds the line now",
        ),
        Column("order_id", "STRING", "as delivered"),
        Column("part_number", "STRING", "as delivered"),
        Column("customer_id", "STRING", "as delivered"),
        Column("order_date", "STRING", "as delivered"),
        Column("quantity", "STRING", "as delivered"),
        Column("unit_price", "STRING", "as delivered"),
    ),
    write="merge",
    code_version="2",
    owner=DATA_OWNER,
    partition_by=("yyyymm",),
    partition_reason=BY_MONTH,
    constraints=(
        Constraint("disposition_known", "disposition IN ('rejected', 'duplicate', 'superseded')"),
        Constraint("has_reason", "size(reasons) > 0"),
    ),
)

PARTS = TableSpec(
    layer="silver",
    name="parts",
    comment="The parts that were ever sold or announced, and since when.",
    grain="one part",
    key=("part_number",),
    columns=(
        _month("month of the first sale or of the announcement, whichever is earlier"),
        _key("part_number", "STRING", "part, trimmed and upper-cased"),
        Column("first_sale_month", "INT", "month of the first sale; NULL before it"),
        Column("announced_month", "INT", "month announced in the parts master"),
        Column(
            "description",
            "STRING",
            "from the parts master, else from the latest line that has one",
            is_versioned=False,
        ),
        Column(
            "last_unit_price",
            "DOUBLE",
            "price on the latest sale; for display only, models read the price known at the origin",
            is_versioned=False,
        ),
        Column(
            "former_numbers",
            "STRING",
            "numbers that the part had before and whose history it goes on with; NULL for none",
            is_versioned=False,
        ),
    ),
    write="merge",
    code_version="1",
    owner=DATA_OWNER,
)

MONTHLY_DEMAND = TableSpec(
    layer="silver",
    name="monthly_demand",
    comment=(
        "Demand of every part in every month since its first sale or announcement, months without"
        " demand included as zero."
    ),
    grain="part_number x month, dense",
    key=("part_number", "yyyymm"),
    columns=(
        _month("month"),
        _key("part_number", "STRING", "part"),
        _key("demand_qty", "DOUBLE", "sold units less units cancelled in the same month"),
        _key("sold_qty", "DOUBLE", "units on sale lines"),
        _key(
            "cancelled_qty",
            "DOUBLE",
            "units of sales that a cancellation in the same month takes back",
        ),
        _key("returned_qty", "DOUBLE", "units on all other cancellations and returns"),
        _key(
            "order_count",
            "BIGINT",
            "orders with demand; of a source without order numbers lines with demand",
        ),
        _key("customer_count", "BIGINT", "known customers with demand"),
        _key(
            "revenue",
            "DOUBLE",
            "demand valued at the price of each line, in the source's currency; 0 without prices",
        ),
        Column("unit_price", "DOUBLE", "revenue / units with a price; NULL without any"),
        Column(
            "region", "STRING", "region with the largest demand of the month; NULL without demand"
        ),
        _key(
            "is_complete",
            "BOOLEAN",
            "false for a month whose orders are not all there: no feature, model or evaluation"
            " reads it",
        ),
    ),
    write="merge",
    code_version="2",
    owner=DATA_OWNER,
    partition_by=("yyyymm",),
    partition_reason=BY_MONTH,
    constraints=(
        Constraint("demand_not_negative", "demand_qty >= 0"),
        Constraint("cancelled_within_sold", "cancelled_qty <= sold_qty"),
    ),
)

DEMAND_FEATURES = TableSpec(
    layer="silver",
    name="demand_features",
    comment=(
        "What is known of every part at the end of a month, and nothing later: lags, rolling"
        " statistics, price, intermittency, class and ABC."
    ),
    grain="part_number x origin (complete months only)",
    key=("part_number", "yyyymm"),
    columns=(
        _month("origin: the features know everything dated by its end"),
        _key("part_number", "STRING", "part"),
        _key(
            "demand_class",
            "STRING",
            "smooth, erratic, intermittent or lumpy (ADI 1.32, CV2 0.49; Syntetos, Boylan and"
            " Croston 2005), or new",
        ),
        _key(
            "abc_class",
            "STRING",
            "A: parts that make the first 80 % of the last 12 months' revenue, B: to 95 %, C: the"
            " rest; of units where no part has a price",
        ),
        Column("region", "STRING", "region of the latest month with demand"),
        _key(
            "is_active",
            "BOOLEAN",
            "a sale within active_months through the origin, or announced in the parts master",
        ),
        _key(
            "history_months", "INT", "months since first sale or announcement, the origin included"
        ),
        Column(
            "months_since_first_sale", "INT", "0 in the month of the first sale; NULL before it"
        ),
        Column(
            "months_since_last_sale",
            "INT",
            "0 when the origin has demand; NULL without a sale in the last 24 months"
            " (active_months, if more)",
        ),
        *(
            Column(
                f"demand_lag_{lag}",
                "DOUBLE",
                f"demand {lag} months before the origin, units; NULL before the part existed",
            )
            for lag in LAGS
        ),
        *(
            Column(
                f"demand_mean_{n}", "DOUBLE", f"mean monthly demand of the last {n} months, units"
            )
            for n in (3, 6, 12, 24)
        ),
        *(
            Column(
                f"demand_std_{n}",
                "DOUBLE",
                f"standard deviation of monthly demand in the last {n} months, units",
            )
            for n in (6, 12, 24)
        ),
        Column("demand_max_12", "DOUBLE", "largest monthly demand in the last 12 months, units"),
        Column("nonzero_share_12", "DOUBLE", "share of the last 12 months with demand"),
        Column(
            "adi",
            "DOUBLE",
            "average demand interval: months per month with demand, in the last 24 months",
        ),
        Column(
            "cv2",
            "DOUBLE",
            "squared coefficient of variation of non-zero demand in the last 24 months",
        ),
        Column("nonzero_mean_24", "DOUBLE", "mean of the months with demand in the last 24, units"),
        Column("order_count_12", "BIGINT", "orders in the last 12 months"),
        Column(
            "customer_count_12", "DOUBLE", "mean number of customers a month in the last 12 months"
        ),
        Column(
            "returned_share_12", "DOUBLE", "returned units over sold units in the last 12 months"
        ),
        Column("unit_price", "DOUBLE", "price in the latest month with demand"),
        Column("price_ratio_12", "DOUBLE", "that price over the mean price of the last 12 months"),
        Column("revenue_12", "DOUBLE", "revenue of the last 12 months"),
        _key("month_of_year", "INT", "1 to 12, of the origin"),
        Column(
            "naive_rmse_scale",
            "DOUBLE",
            "root mean squared month-to-month change in the last 24 months: the scale of RMSSE,"
            " units",
        ),
        Column(
            "seasonal_mae_scale",
            "DOUBLE",
            "mean absolute change against the same month of the year before, last 24 months: the"
            " scale of MASE, units",
        ),
    ),
    write="merge",
    code_version="3",
    owner=DATA_OWNER,
    partition_by=("yyyymm",),
    partition_reason=BY_MONTH,
    constraints=(
        Constraint(
            "demand_class_known", f"demand_class IN ({', '.join(repr(c) for c in DEMAND_CLASSES)})"
        ),
        Constraint("abc_class_known", "abc_class IN ('A', 'B', 'C')"),
    ),
)
# What a model knows of a part at an origin.
FEATURE_COLUMNS = tuple(
    name for name in DEMAND_FEATURES.column_names if name not in ("yyyymm", "part_number")
)

_FORECAST = (
    Column("forecast_qty", "DOUBLE", "expected demand, units; sums over parts", is_nullable=False),
    *_deciles("demand"),
)

GIVEN_FORECAST = TableSpec(
    layer="silver",
    name="given_forecast",
    comment=(
        "Forecasts that were made elsewhere, as their files say: by the notebook before, the ERP, a"
        " planner. There where the configuration names some."
    ),
    grain="given forecast x origin x part_number x target month",
    key=("yyyymm", "model", "part_number", "horizon"),
    columns=(
        _month("origin: the last month that was known"),
        _key("model", "STRING", "name in given_forecasts"),
        _key("part_number", "STRING", "part, spelled as order lines spell it"),
        _key("horizon", "INT", "months after the origin"),
        _key("target_yyyymm", "INT", "month forecast"),
        Column(
            "forecast_qty",
            "DOUBLE",
            "demand forecast, units; a negative one counts as zero",
            is_nullable=False,
        ),
        *_deciles("demand, where the file has them"),
        Column("file_name", "STRING", "file that it was read from", is_versioned=False),
        Column("line_number", "BIGINT", "its line there", is_versioned=False),
    ),
    write="merge",
    code_version="1",
    owner=DATA_OWNER,
    partition_by=("yyyymm",),
    partition_reason=BY_MONTH,
    constraints=(
        Constraint("forecast_not_negative", "forecast_qty >= 0"),
        Constraint("after_the_origin", "horizon >= 1 AND target_yyyymm > yyyymm"),
        Constraint("deciles_in_order", f"q10 IS NULL OR ({_IN_ORDER})"),
    ),
)
ZOO_FORECAST = TableSpec(
    layer="gold",
    name="zoo_forecast",
    comment=(
        "What each model of the zoo said at the end of each month. Its past months are the"
        " backtest."
    ),
    grain="model x origin x part_number x target month",
    key=("yyyymm", "model", "part_number", "horizon"),
    columns=(
        _month("origin"),
        _key("model", "STRING", "name of the model in the zoo"),
        _key("part_number", "STRING", "part"),
        _key("horizon", "INT", "months after the origin"),
        _key("target_yyyymm", "INT", "month forecast"),
        *_FORECAST,
        _key(
            "is_fallback",
            "BOOLEAN",
            "the model could not forecast this series; a plain mean stands in",
        ),
        Column(
            "fit_seconds",
            "DOUBLE",
            "seconds this model needed for the origin, all parts, seconds",
            is_volatile=True,
        ),
        Column("run_id", "STRING", "MLflow run of the fit", is_versioned=False),
    ),
    write="merge",
    code_version="1",
    owner=MODEL_OWNER,
    partition_by=("yyyymm", "model"),
    partition_reason=(
        "every model writes its own months: two models never conflict, one model's month is read"
        " alone"
    ),
    writer_column="model",
    constraints=(
        Constraint("forecast_not_negative", "forecast_qty >= 0 AND q10 >= 0"),
        Constraint("deciles_in_order", _IN_ORDER),
    ),
)

ZOO_RESULT = TableSpec(
    layer="gold",
    name="zoo_result",
    comment=(
        "The evidence of a month's decision: every model's forecast beside what was then sold, on"
        " identical cells."
    ),
    grain="decision month x model x cell (part_number, origin, target month)",
    key=("yyyymm", "model", "origin", "part_number", "horizon"),
    columns=(
        _month("decision month"),
        _key("model", "STRING", "name of the model"),
        _key("origin", "INT", "month the forecast was made at the end of"),
        _key("part_number", "STRING", "part"),
        _key("horizon", "INT", "months after the origin"),
        _key("target_yyyymm", "INT", "month forecast"),
        *_FORECAST,
        _key("actual_qty", "DOUBLE", "demand_qty of the target month, units"),
        _key("is_fallback", "BOOLEAN", "a plain mean stood in for the model"),
        _key("demand_class", "STRING", "class of the part as of the origin"),
        _key("abc_class", "STRING", "ABC class of the part as of the origin"),
        Column("region", "STRING", "region of the part as of the origin"),
        Column("unit_price", "DOUBLE", "last known price as of the origin"),
        Column("naive_rmse_scale", "DOUBLE", "scale of RMSSE as of the origin, units"),
        Column("seasonal_mae_scale", "DOUBLE", "scale of MASE as of the origin, units"),
    ),
    write="merge",
    code_version="1",
    owner=MODEL_OWNER,
    partition_by=("yyyymm",),
    partition_reason=BY_MONTH,
    constraints=(
        Constraint("forecast_not_negative", "forecast_qty >= 0"),
        Constraint("target_known_by_then", "target_yyyymm <= yyyymm"),
    ),
)

MODEL_EVALUATION = TableSpec(
    layer="gold",
    name="model_evaluation",
    comment="How well each model forecast, by segment and horizon, on the same cells.",
    grain="decision month x model x segment x horizon (0: all horizons)",
    key=("yyyymm", "model", "segment_kind", "segment", "horizon"),
    columns=(
        _month("decision month"),
        _key("model", "STRING", "name of the model"),
        _key("segment_kind", "STRING", "all, demand_class, abc_class or region"),
        _key("segment", "STRING", "value of the segment"),
        _key("horizon", "INT", "months after the origin; 0: all"),
        _key("cell_count", "BIGINT", "cells evaluated"),
        _key("part_count", "BIGINT", "parts in them"),
        _key("origin_count", "BIGINT", "origins in them"),
        _key(
            "missing_cell_count",
            "BIGINT",
            "cells that another model has and this one lacks; more than 0 can't win",
        ),
        _key("actual_qty", "DOUBLE", "demand of the cells, units"),
        *(Column(figure.name, "DOUBLE", figure.meaning) for figure in FIGURES),
        Column(
            "fit_seconds", "DOUBLE", "seconds for one origin, mean over origins", is_volatile=True
        ),
    ),
    write="merge",
    code_version="3",
    owner=MODEL_OWNER,
    partition_by=("yyyymm",),
    partition_reason=BY_MONTH,
)

CHAMPION = TableSpec(
    layer="gold",
    name="champion",
    comment=(
        "Which model serves each class since when, on what evidence, decided by whom. The newest"
        " row is the truth; the registry follows it."
    ),
    grain="one decision",
    key=("decision_number",),
    columns=(
        _month("decision month"),
        _key("decision_number", "BIGINT", "rising without gaps"),
        _key("demand_class", "STRING", "class the decision is about"),
        _key(
            "decision",
            "STRING",
            "promoted, provisional, refreshed, kept, denied, proposed, restated, rolled_back or"
            " released",
        ),
        Column("champion", "STRING", "model that serves the class after this row"),
        Column(
            "challenger",
            "STRING",
            "best other candidate; of a proposal the model that waits for approval",
        ),
        Column("actor", "STRING", "who decided: policy, or a person"),
        Column("champion_wql", "DOUBLE", "WQL of the champion on the evidence"),
        Column("challenger_wql", "DOUBLE", "WQL of the challenger on the same cells"),
        Column("baseline_wql", "DOUBLE", "WQL of seasonal_naive on the same cells"),
        Column(
            "difference_low",
            "DOUBLE",
            "lower end of the interval of winner's WQL less the incumbent's: of equal models one"
            " lies wholly below zero in 2.5 % of the decisions",
        ),
        Column("difference_high", "DOUBLE", "upper end of it"),
        Column(
            "interval_over",
            "STRING",
            "what the interval knows to vary: parts and months, or months alone where parts are"
            " few; NULL without one",
        ),
        Column("champion_bias", "DOUBLE", "bias of the champion on the evidence"),
        Column(
            "oracle_wql",
            "DOUBLE",
            "WQL of the best model per part in hindsight: the floor no champion reaches",
        ),
        Column("cell_count", "BIGINT", "cells of the evidence"),
        Column("part_count", "BIGINT", "parts in it"),
        Column("origin_count", "INT", "origins in it"),
        Column("pooled", "BOOLEAN", "the class was too small and took the decision of all classes"),
        Column("reason", "STRING", "why, in one sentence"),
        Column(
            "champion_trained_yyyymm", "INT", "month the serving fit of the champion was trained in"
        ),
        Column("registry_version", "INT", "version of the registered model served after this row"),
        Column(
            "candidate_version",
            "INT",
            "version registered by this training; of a proposal the one that approval takes its fit"
            " from",
        ),
        Column(
            "held_until_yyyymm",
            "INT",
            "last month whose evidence changes nothing for the class; 999912 until a person"
            " releases it",
        ),
        Column(
            "evidence_version",
            "STRING",
            "hash of the evidence, the fits and the promotion settings that were decided on",
        ),
        Column("run_id", "STRING", "MLflow run of the training", is_volatile=True),
        Column("decided_at", "TIMESTAMP", "when (UTC)", is_volatile=True),
    ),
    write="append",
    code_version="4",
    owner=MODEL_OWNER,
)

DEMAND_FORECAST = TableSpec(
    layer="gold",
    name="demand_forecast",
    comment=(
        "The forecast that purchasing reads: for every active part and each coming month the"
        " expected demand and its deciles. Published numbers stay; corrections add a vintage."
    ),
    grain=(
        "origin x vintage x part_number x target month; an excluded part has one row with horizon"
        " 0, no numbers and the reason"
    ),
    key=("yyyymm", "vintage", "part_number", "horizon"),
    columns=(
        _month("origin"),
        _key(
            "vintage",
            "INT",
            "1 is what was published first for this origin; the highest is current",
        ),
        _key("part_number", "STRING", "part"),
        _key("horizon", "INT", "months after the origin"),
        _key("target_yyyymm", "INT", "month forecast"),
        Column("forecast_qty", "DOUBLE", "expected demand, units; sums over parts"),
        *_deciles("demand"),
        _key("status", "STRING", "forecast, guarded, fallback, new_part or excluded"),
        Column(
            "reason", "STRING", "why a guarded path, a fallback, an exclusion or a later vintage"
        ),
        _key("demand_class", "STRING", "class of the part as of the origin"),
        Column("model", "STRING", "model that made the row"),
        Column(
            "registry_version",
            "INT",
            "version of the registered model; NULL where none was trained by then",
        ),
        Column("trained_yyyymm", "INT", "month the model was trained in"),
        Column("model_run_id", "STRING", "MLflow run of the model's fit"),
        Column("input_versions", "STRING", "Delta versions of the tables read, as JSON"),
        Column("run_id", "STRING", "Dagster run that published the row"),
        Column("published_at", "TIMESTAMP", "when (UTC)"),
    ),
    write="append",
    code_version="2",
    owner=MODEL_OWNER,
    partition_by=("yyyymm",),
    partition_reason=BY_MONTH,
    constraints=(
        Constraint("numbers_unless_excluded", "(status = 'excluded') = (forecast_qty IS NULL)"),
        Constraint(
            "forecast_not_negative",
            "forecast_qty IS NULL OR (forecast_qty >= 0 AND q10 >= 0 AND NOT isnan(forecast_qty))",
        ),
        Constraint("deciles_in_order", f"forecast_qty IS NULL OR ({_IN_ORDER})"),
        Constraint(
            "status_known", "status IN ('forecast', 'guarded', 'fallback', 'new_part', 'excluded')"
        ),
    ),
)

DEMAND_FORECAST_TOTAL = TableSpec(
    layer="gold",
    name="demand_forecast_total",
    comment=(
        "What is expected of all parts together and of each class, with deciles of the total:"
        " deciles of parts do not add up. How wide they are is decided by the errors of past"
        " totals, and how often past totals fell within them stands beside."
    ),
    grain="origin x vintage x segment x target month",
    key=("yyyymm", "vintage", "segment_kind", "segment", "horizon"),
    columns=(
        _month("origin"),
        _key("vintage", "INT", "vintage of gold.demand_forecast that is added up"),
        _key("segment_kind", "STRING", "all, demand_class or abc_class"),
        _key("segment", "STRING", "value of the segment; classes are as of the origin"),
        _key("horizon", "INT", "months after the origin"),
        _key("target_yyyymm", "INT", "month forecast"),
        _key("part_count", "BIGINT", "parts added up"),
        Column(
            "guarded_part_count",
            "BIGINT",
            "of these, parts that the baseline serves because their history does not bear out the"
            " model's path; NULL in vintages of a former release",
        ),
        _key(
            "forecast_qty",
            "DOUBLE",
            "expected demand, units: the sum of the parts' forecast_qty, which are means;"
            " medians do not add up",
        ),
        *_deciles("the total"),
        _key(
            "method",
            "STRING",
            "what decided the width: joint_errors of past totals, or full_dependence of the"
            " parts where no past total is known",
        ),
        Column(
            "error_correlation",
            "DOUBLE",
            "mean correlation of the parts' errors that past totals show, 0 or more; NULL where"
            " none is known",
        ),
        _key(
            "target_month_count",
            "INT",
            "past target months that it was learned from; few make the interval wider",
        ),
        Column(
            "coverage_80",
            "DOUBLE",
            "share of past totals, all horizons, within the q10 to q90 that they would have had"
            " at their own origin; NULL where none had one",
        ),
        _key("origin_month_count", "INT", "past totals (origin x target month) it is a share of"),
    ),
    write="merge",
    code_version="2",
    owner=MODEL_OWNER,
    partition_by=("yyyymm",),
    partition_reason=BY_MONTH,
    constraints=(
        Constraint("forecast_not_negative", "forecast_qty >= 0 AND q10 >= 0"),
        Constraint("deciles_in_order", _IN_ORDER),
        Constraint("method_known", "method IN ('joint_errors', 'full_dependence')"),
    ),
)

FORECAST_CHANGE = TableSpec(
    layer="gold",
    name="forecast_change",
    comment=(
        "Why the published forecast of a month is not the one before: four contributions that add"
        " up to the change."
    ),
    grain="origin x part_number x target month that was forecast at the origin before, too",
    key=("yyyymm", "part_number", "target_yyyymm"),
    columns=(
        _month("origin"),
        _key("part_number", "STRING", "part"),
        _key("target_yyyymm", "INT", "month forecast"),
        _key("horizon", "INT", "months after the origin"),
        _key("vintage", "INT", "vintage of gold.demand_forecast that is explained"),
        _key("former_origin", "INT", "origin of the forecast before"),
        _key("former_vintage", "INT", "its vintage that people had"),
        _key("former_qty", "DOUBLE", "expected demand said then, units"),
        _key("forecast_qty", "DOUBLE", "expected demand said now, units"),
        _key(
            "restated_qty",
            "DOUBLE",
            "change by lines of months through the former origin that came late or were corrected,"
            " units",
        ),
        _key(
            "new_sales_qty",
            "DOUBLE",
            "change by the months since the former origin, with the same fits, units",
        ),
        _key("refit_qty", "DOUBLE", "change by fitting the same model again, units"),
        _key("champion_qty", "DOUBLE", "change by another model, units"),
    ),
    write="merge",
    code_version="1",
    owner=MODEL_OWNER,
    partition_by=("yyyymm",),
    partition_reason=BY_MONTH,
    constraints=(
        Constraint(
            "contributions_add_up",
            "abs(forecast_qty - former_qty - restated_qty - new_sales_qty - refit_qty -"
            " champion_qty) <= 0.000001 * greatest(1.0, abs(forecast_qty), abs(former_qty))",
        ),
    ),
)
FORECAST_ACCURACY = TableSpec(
    layer="gold",
    name="forecast_accuracy",
    comment=(
        "How the forecasts that were served turned out, by lag and segment, beside what their"
        " backtest promised and what seasonal naive did."
    ),
    grain="target month x lag x segment",
    key=("yyyymm", "lag", "segment_kind", "segment"),
    columns=(
        _month("target month"),
        _key("lag", "INT", "months between origin and target"),
        _key(
            "segment_kind",
            "STRING",
            "all, demand_class or status; unlabelled_class, of months with parts labelled error or"
            " one_off: a demand class without them",
        ),
        _key("segment", "STRING", "value of the segment"),
        _key("cell_count", "BIGINT", "parts compared"),
        _key("actual_qty", "DOUBLE", "demand, units"),
        _key("forecast_qty", "DOUBLE", "expected demand as served, units"),
        Column("mae", "DOUBLE", "mean absolute error of q50, units"),
        Column("rmse", "DOUBLE", "root mean squared error of forecast_qty, units"),
        Column("wape", "DOUBLE", "sum of absolute errors of q50 over sum of demand"),
        Column("bias", "DOUBLE", "sum of (forecast_qty - demand) over sum of demand"),
        Column("wql", "DOUBLE", "mean over the deciles of 2 * pinball loss over sum of demand"),
        Column("coverage_80", "DOUBLE", "share of parts within [q10, q90]"),
        Column("naive_wape", "DOUBLE", "WAPE of the same month a year before, on the same parts"),
        Column(
            "value_added", "DOUBLE", "1 - wape / naive_wape: above 0 the forecast was worth having"
        ),
        Column(
            "mean_absolute_change",
            "DOUBLE",
            "mean absolute change against the origin before for the same target, over mean"
            " forecast; NULL without one",
        ),
        _key("is_backfilled", "BOOLEAN", "the forecast was published after the month began"),
        Column(
            "evidence_wql",
            "DOUBLE",
            "WQL of the models that served, on the evidence of their training at this lag, weighted"
            " by demand",
        ),
        Column(
            "evidence_bias",
            "DOUBLE",
            "bias of them there; both NULL where a part of the demand had no trained model",
        ),
    ),
    write="merge",
    code_version="3",
    owner=MODEL_OWNER,
    may_shrink=True,
    partition_by=("yyyymm",),
    partition_reason=BY_MONTH,
)

DEMAND_DRIFT = TableSpec(
    layer="gold",
    name="demand_drift",
    comment=(
        "Whether a month looks like the past: each figure of demand and of the served forecast's"
        " error against its own history, season taken out, all tested as one."
    ),
    grain="month x feature",
    key=("yyyymm", "feature"),
    columns=(
        _month("month"),
        _key("feature", "STRING", "what is compared, for instance total_demand_qty"),
        Column("value", "DOUBLE", "figure of the month"),
        Column("expected", "DOUBLE", "figure expected from the past"),
        Column("statistic", "DOUBLE", "robust z-score of the difference"),
        Column("threshold", "DOUBLE", "absolute statistic beyond which it is drift"),
        _key("history_months", "INT", "past months that it is ranked among"),
        _key("is_drift", "BOOLEAN", "p_value within the false_alarm_rate"),
        _key("reason", "STRING", "verdict in one sentence"),
        Column(
            "p_value",
            "DOUBLE",
            "share of months, this one among them, in which some figure of the family was as"
            " far off",
        ),
        Column(
            "false_alarm_rate",
            "DOUBLE",
            "share of months without a change in which some figure of the family counts as drift",
        ),
    ),
    write="merge",
    code_version="3",
    owner=MODEL_OWNER,
    partition_by=("yyyymm",),
    partition_reason=BY_MONTH,
)

DEMAND_ANOMALY = TableSpec(
    layer="gold",
    name="demand_anomaly",
    comment=(
        "Parts and months whose demand is improbable under the deciles that were published before:"
        " of months without an anomaly a stated share has a row all the same. A month of which"
        " nothing was published has none, and that says nothing of it."
    ),
    grain="month x part_number, anomalies only",
    key=("yyyymm", "part_number"),
    columns=(
        _month("month"),
        _key("part_number", "STRING", "part"),
        _key("direction", "STRING", "high or low: more or less than was to be expected"),
        _key("demand_qty", "DOUBLE", "demand, units"),
        Column(
            "forecast_qty",
            "DOUBLE",
            "expected demand as published, units; NULL, as the deciles, where nothing was published"
            " of the part",
        ),
        *(column for column in _deciles("demand as published") if column.name in _SHOWN_DECILES),
        _key(
            "p_value",
            "DOUBLE",
            "share of months with demand as far off, if what was published is right",
        ),
        _key(
            "adjusted_p_value",
            "DOUBLE",
            "p_value after Benjamini and Hochberg (1995) over the parts tested in the month",
        ),
        _key("anomaly_rate", "DOUBLE", "adjusted p_value up to which it is an anomaly"),
        _key("tested_part_count", "BIGINT", "parts tested in the month"),
        _key(
            "basis",
            "STRING",
            "what it was held against: part, its own deciles, or all_parts, those of all parts"
            " together, where none were published of it or all of them are 0",
        ),
        Column("unit_price", "DOUBLE", "price in the latest month with demand, this one included"),
        Column(
            "money_at_stake",
            "DOUBLE",
            "difference of demand and forecast_qty times unit_price, in the source's currency; NULL"
            " without a price",
        ),
        _key("origin", "INT", "month that the published forecast was made at the end of"),
        _key("horizon", "INT", "months from there"),
        _key("vintage", "INT", "vintage of gold.demand_forecast that it was held against"),
        _key("is_backfilled", "BOOLEAN", "the forecast was published after the month began"),
        Column("model", "STRING", "model that made the forecast"),
        Column("status", "STRING", "status of the forecast; NULL where nothing was published"),
        Column("demand_class", "STRING", "class of the part as of the origin"),
        Column("label", "STRING", "what a person said of it: real, error or one_off"),
        Column("label_note", "STRING", "why"),
        Column("labelled_by", "STRING", "who"),
    ),
    write="merge",
    code_version="1",
    owner=MODEL_OWNER,
    may_shrink=True,
    partition_by=("yyyymm",),
    partition_reason=BY_MONTH,
    constraints=(
        Constraint("direction_known", "direction IN ('high', 'low')"),
        Constraint("basis_known", "basis IN ('part', 'all_parts')"),
        Constraint("within_the_rate", "p_value >= 0 AND adjusted_p_value <= anomaly_rate"),
        Constraint("published_before", "origin < yyyymm"),
        Constraint(
            "outside_the_interval",
            "basis = 'all_parts' OR (direction = 'high' AND demand_qty > q90)"
            " OR (direction = 'low' AND demand_qty < q10)",
        ),
    ),
)

DEMAND_LABEL = TableSpec(
    layer="gold",
    name="demand_label",
    comment=(
        "What people say of a part's demand in a month: real, error or one_off. Of a part and month"
        " the newest row counts. A label never changes demand: a correction comes as a file."
    ),
    grain="one label given or withdrawn",
    key=("label_number",),
    columns=(
        _month("month of the demand that it is about"),
        _key("label_number", "BIGINT", "rising without gaps"),
        _key("part_number", "STRING", "part"),
        _key(
            "label",
            "STRING",
            "real: the demand is as it was; error: it was not so; one_off: it was so, and is no"
            " sign of more; withdrawn: nothing is said any more",
        ),
        Column("note", "STRING", "why"),
        _key("actor", "STRING", "who"),
        Column("labelled_at", "TIMESTAMP", "when (UTC)", is_volatile=True),
    ),
    write="append",
    code_version="1",
    owner=MODEL_OWNER,
    constraints=(Constraint("label_known", "label IN ('real', 'error', 'one_off', 'withdrawn')"),),
)

RETRAINING_DECISION = TableSpec(
    layer="gold",
    name="retraining_decision",
    comment=(
        "Whether the champion was to be trained again, decided for each newest complete month, with"
        " the reason. Sensors act on the newest row."
    ),
    grain="one decision",
    key=("decision_number",),
    columns=(
        _month("month decided upon: the newest complete one by then"),
        _key("decision_number", "BIGINT", "rising without gaps"),
        _key("decision", "STRING", "nothing, watch or retrain"),
        Column("cause", "STRING", "of a retraining: drift, training_lag or first_training"),
        _key("reason", "STRING", "why, in one sentence"),
        _key(
            "evidence_months",
            "STRING",
            "JSON list of the months whose drift it rests on; no later retraining may rest on them",
        ),
        Column(
            "training_lag_months",
            "INT",
            "months from the oldest champion's training to this month; NULL without a champion",
        ),
        _key("mode", "STRING", "retraining.mode by then: act or suggest"),
        Column("run_id", "STRING", "Dagster run", is_volatile=True),
        Column("decided_at", "TIMESTAMP", "when (UTC)", is_volatile=True),
    ),
    write="append",
    code_version="1",
    owner=MODEL_OWNER,
    constraints=(Constraint("decision_known", "decision IN ('nothing', 'watch', 'retrain')"),),
)

DATA_QUALITY = TableSpec(
    layer="gold",
    name="data_quality",
    comment="How every line of a month was accounted for, and which data rules it kept.",
    grain="month x rule",
    key=("yyyymm", "rule"),
    columns=(
        _month("month; 0 for lines of no month"),
        _key(
            "rule",
            "STRING",
            "what is counted, for instance lines_read, rejected:quantity_unreadable or"
            " warned:part_number_decimal_ending",
        ),
        _key("value", "DOUBLE", "count or share"),
        Column("threshold", "DOUBLE", "limit, where the rule has one"),
        _key("is_ok", "BOOLEAN", "within the limit"),
        _key("detail", "STRING", "what the figure means"),
    ),
    write="merge",
    code_version="2",
    owner=DATA_OWNER,
    partition_by=("yyyymm",),
    partition_reason=BY_MONTH,
)

PLAN = TableSpec(
    layer="gold",
    name="plan",
    comment=(
        "What destructive acts would do, shown before they are done, and what became of each:"
        " planned, applied, undone."
    ),
    grain="one event of one plan",
    key=("event_number",),
    columns=(
        _month("month in which it was recorded"),
        _key("event_number", "BIGINT", "rising without gaps"),
        _key("plan_id", "STRING", "name that a person gives to apply it"),
        _key("event", "STRING", "planned, applied or undone"),
        _key("kind", "STRING", "backfill, removal, restore, vacuum or redating"),
        _key("table_id", "STRING", "layer.table"),
        _key("writer", "STRING", "model, in a table of several writers; else empty"),
        _key("months", "STRING", "JSON list; empty for the whole table"),
        _key("details", "STRING", "JSON: what the kind needs, for instance the version to restore"),
        _key("table_version", "BIGINT", "Delta version when it was planned; undoing returns to it"),
        Column("version_after", "BIGINT", "Delta version after the event"),
        _key("row_count", "BIGINT", "stored rows concerned"),
        _key("file_count", "BIGINT", "files concerned"),
        _key("byte_count", "BIGINT", "their bytes"),
        _key("effect", "STRING", "what applying it does and what can't be undone, in a sentence"),
        _key("actor", "STRING", "who"),
        Column("run_id", "STRING", "Dagster run, where one did it", is_volatile=True),
        Column("recorded_at", "TIMESTAMP", "when (UTC)", is_volatile=True),
    ),
    write="append",
    code_version="1",
    owner=DATA_OWNER,
)

TABLES: tuple[TableSpec, ...] = (
    DELIVERIES,
    BRONZE_SALES_ORDERS,
    SILVER_SALES_ORDERS,
    REJECTED_LINES,
    PARTS,
    MONTHLY_DEMAND,
    DEMAND_FEATURES,
    GIVEN_FORECAST,
    ZOO_FORECAST,
    ZOO_RESULT,
    MODEL_EVALUATION,
    CHAMPION,
    DEMAND_FORECAST,
    DEMAND_FORECAST_TOTAL,
    FORECAST_CHANGE,
    FORECAST_ACCURACY,
    DEMAND_DRIFT,
    DEMAND_ANOMALY,
    RETRAINING_DECISION,
    DATA_QUALITY,
    LEDGER,
    PLAN,
    DEMAND_LABEL,
)

# What the lakehouse notes about itself and what people say: written by no asset.
RECORDS = (LEDGER, PLAN, DEMAND_LABEL)
