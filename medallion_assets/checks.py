"""Asset checks made from the TableSpecs: key unique, not null, rules kept, months in range, every
line accounted for.

They look at the stored table, not at what was written, so that they see what others did to it. A
check has a verdict on each month, and names the failed ones.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from medallion_assets.partitions import month_partitions
from medallion_assets.table_asset import asset_key
from medallion_assets.tables import (
    BRONZE_SALES_ORDERS,
    DATA_QUALITY,
    DEMAND_DRIFT,
    DEMAND_FORECAST,
    GIVEN_FORECAST,
    RECORDS,
    RETRAINING_DECISION,
    TABLES,
    ZOO_FORECAST,
)
from medallion_assets.watch.decision_record import MONTHLY, months_of_tables
from medallion_assets.watch.freshness import listed
from medallion_assets.watch.retraining import last_decision
from resources.dagster_storage import together
from resources.lakehouse import Lakehouse, TableSpec
from resources.settings import Settings

RULES_OF_A_TABLE = 63  # bits of a BIGINT without its sign
# Metadata of a verdict on a month that has one on all months of the run beside it.
ONE_OF_SEVERAL = "one_of_several_months"


@dataclass(frozen=True)
class Finding:
    """What a check found: rows that break a rule, by rule and month."""

    rule: str
    yyyymm: int
    row_count: int


def build_checks(
    settings: Settings, model_keys: dict[str, dg.AssetKey], has_own_bronze: bool = True
) -> list[dg.AssetChecksDefinition]:
    """One blocking check for each table asset, one for each model's slice, the accounting of lines,
    the share of guarded paths, warnings of drift, of months that wait and of retraining.

    Where all order lines come from adopted tables there is no bronze.sales_orders of our own to
    check.
    """
    without = [*RECORDS, ZOO_FORECAST]
    if not has_own_bronze:
        without.append(BRONZE_SALES_ORDERS)
    if not settings.given_forecasts:
        without.append(GIVEN_FORECAST)
    specs = [spec for spec in TABLES if spec not in without]
    months = month_partitions(settings.first_month)
    blocking = [_table_check(spec, asset_key(spec), "", months) for spec in specs]
    blocking += [_table_check(ZOO_FORECAST, key, name, months) for name, key in model_keys.items()]
    return [
        *blocking,
        _accounting_check(months),
        _guard_check(settings, months),
        _drift_check(months),
        *(_months_check(spec, settings) for spec in MONTHLY),
        _retraining_check(),
    ]


def findings(spec: TableSpec, table: DataFrame) -> DataFrame:
    """Rules of a spec that rows break: rule, yyyymm, row_count. Rows of one key count together, for
    each rule that any of them breaks.

    Raises ValueError where a spec has more than RULES_OF_A_TABLE rules.
    """
    month = F.col(spec.month_column) if spec.month_column in table.columns else F.lit(0)
    rules = [
        (f"not_null_{c.name}", F.col(f"`{c.name}`").isNotNull())
        for c in spec.columns
        if not c.is_nullable
    ]
    rules += [
        (constraint.name, F.coalesce(F.expr(constraint.sql), F.lit(False)))
        for constraint in spec.constraints
    ]
    if spec.month_column in table.columns:
        rules.append(
            ("month_valid", (month == 0) | ((month % 100).between(1, 12) & (month > 190000)))
        )
    if len(rules) > RULES_OF_A_TABLE:
        raise ValueError(f"{spec.id} has {len(rules)} rules; its check holds {RULES_OF_A_TABLE}")
    # The table is read once: a bit for each rule travels with the keys.
    bits = (
        F.when(rule, F.lit(0)).otherwise(F.lit(1 << bit)).cast("bigint")
        for bit, (_, rule) in enumerate(rules)
    )
    broken = reduce(lambda total, bit: total.bitwiseOR(bit), bits, F.lit(0).cast("bigint"))
    by_key = table.groupBy(
        month.alias("yyyymm"), *[F.col(k) for k in spec.key if k != spec.month_column]
    ).agg(F.count("*").alias("n"), F.bit_or(broken).alias("broken"))
    counts = {"key_unique": F.sum(F.col("n") - 1)} | {
        name: F.sum(
            F.when(F.col("broken").bitwiseAND(F.lit(1 << bit)) != 0, F.col("n")).otherwise(0)
        )
        for bit, (name, _) in enumerate(rules)
    }
    by_month = by_key.groupBy("yyyymm").agg(*[count.alias(name) for name, count in counts.items()])
    listed = F.explode(
        F.array(
            *[
                F.struct(F.lit(name).alias("rule"), F.col(name).alias("row_count"))
                for name in counts
            ]
        )
    )
    return (
        by_month.select("yyyymm", listed.alias("f"))
        .select("f.rule", "yyyymm", "f.row_count")
        .where("row_count > 0")
    )


def _table_check(
    spec: TableSpec, key: dg.AssetKey, writer: str, months: dg.PartitionsDefinition
) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=key,
        partitions_def=months,
        name="rules_kept",
        blocking=True,
        description=(
            f"Key ({', '.join(spec.key)}) unique, nothing missing, {len(spec.constraints)} rules of"
            " the table kept."
        ),
    )
    def _check(
        context: dg.AssetCheckExecutionContext, lakehouse: dg.ResourceParam[Lakehouse]
    ) -> dg.AssetCheckResult:
        asked = _months(context)
        table = lakehouse.read(spec, asked if spec.partition_by else None)
        if spec.writer_column:
            table = table.where(F.col(spec.writer_column) == writer)
        return _result(context, findings(spec, table), asked)

    return _check


def _months(context: dg.AssetCheckExecutionContext) -> list[int] | None:
    step = context.op_execution_context
    return (
        [int(key) for key in step.partition_keys]
        if step.has_partition_key or step.has_partition_key_range
        else None
    )


def _result(
    context: dg.AssetCheckExecutionContext, found: DataFrame, months: Sequence[int] | None
) -> dg.AssetCheckResult:
    rows = [
        Finding(r["rule"], r["yyyymm"], r["row_count"])
        for r in found.orderBy("yyyymm", "rule").limit(100).collect()
    ]
    told = [(f.yyyymm, f"{f.row_count:,} rows break {f.rule}") for f in rows]
    lines = "\n".join(f"- {month}: {text}" for month, text in told)
    _tell_months(context, months, told)
    return dg.AssetCheckResult(
        passed=not rows,
        metadata={
            "findings": dg.MetadataValue.md(lines or "none"),
            "months": _span(months),
            "broken_rows": sum(f.row_count for f in rows),
        },
        description=lines.replace("- ", "") or None,
    )


def _tell_months(
    context: dg.AssetCheckExecutionContext,
    months: Sequence[int] | None,
    told: Sequence[tuple[int, str]],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> None:
    """Record a check's verdict on each month of a run of several. Dagster itself records one on all
    of them, and a month by itself only where the run is of that month.

    told: what was found, with its month.
    """
    if months is None or len(months) < 2:
        return
    found: dict[int, list[str]] = {}
    for month, text in told:
        found.setdefault(month, []).append(text)
    spec = next(iter(context.check_specs))
    # A verdict without what it was on counts as one on a former materialization.
    made = context.instance.get_latest_storage_id_by_partition(
        spec.asset_key, dg.DagsterEventType.ASSET_MATERIALIZATION, {str(m) for m in months}
    )
    with together(context.instance.event_log_storage):
        for month in months:
            context.op_execution_context.log_event(
                dg.AssetCheckEvaluation(  # type: ignore[arg-type]
                    asset_key=spec.asset_key,
                    check_name=spec.name,
                    passed=month not in found,
                    metadata={"months": str(month), ONE_OF_SEVERAL: True},
                    severity=severity,
                    description="; ".join(found.get(month, ())) or None,
                    blocking=spec.blocking,
                    partition=str(month),
                    target_materialization_data=(
                        AssetCheckEvaluationTargetMaterializationData(
                            storage_id=made[str(month)],
                            run_id=context.run.run_id,
                            timestamp=time.time(),
                        )
                        if str(month) in made
                        else None
                    ),
                )
            )


def is_on_one_of_several(verdict: dg.AssetCheckEvaluation) -> bool:
    """Whether a verdict is on one month beside that on all months of the run, which names it too
    where it failed.
    """
    return ONE_OF_SEVERAL in verdict.metadata


def _span(months: Sequence[int] | None) -> str:
    return (
        "all"
        if not months
        else f"{months[0]} to {months[-1]}"
        if len(months) > 1
        else str(months[0])
    )


def _accounting_check(partitions: dg.PartitionsDefinition) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset_key(DATA_QUALITY),
        partitions_def=partitions,
        name="every_line_accounted_for",
        blocking=True,
        description=(
            "Lines read = accepted + rejected + duplicates + superseded, for every delivery and"
            " month."
        ),
    )
    def _check(
        context: dg.AssetCheckExecutionContext, lakehouse: dg.ResourceParam[Lakehouse]
    ) -> dg.AssetCheckResult:
        months = _months(context)
        rules = lakehouse.read(DATA_QUALITY, [*months, 0] if months else None).where(
            "rule = 'lines_unaccounted' AND value <> 0"
        )
        found = rules.select("rule", "yyyymm", F.col("value").cast("bigint").alias("row_count"))
        return _result(context, found, months)

    return _check


def _guard_check(
    settings: Settings, partitions: dg.PartitionsDefinition
) -> dg.AssetChecksDefinition:
    limit = settings.monitoring.max_guarded_share

    @dg.asset_check(
        asset=asset_key(DEMAND_FORECAST),
        partitions_def=partitions,
        name="few_paths_guarded",
        blocking=True,
        description=(
            f"At most {limit:.0%} of the parts are served by the baseline, since their history does"
            " not bear out the model's path."
        ),
    )
    def _check(
        context: dg.AssetCheckExecutionContext, lakehouse: dg.ResourceParam[Lakehouse]
    ) -> dg.AssetCheckResult:
        months = _months(context)
        counted = (
            lakehouse.read(DEMAND_FORECAST, months)
            .where("horizon = 1")
            .groupBy("yyyymm", "vintage", "status")
            .agg(F.count("*").alias("parts"))
            .orderBy("yyyymm", "vintage")
            .collect()
        )
        parts: dict[tuple[int, int], dict[str, int]] = {}
        for row in counted:
            parts.setdefault((row["yyyymm"], row["vintage"]), {})[row["status"]] = row["parts"]
        # The newest vintage of a month is the one that counts.
        shares = {
            month: states.get("guarded", 0) / sum(states.values())
            for (month, _), states in parts.items()
        }
        found = [
            (month, f"{share:.1%} of the parts are guarded")
            for month, share in shares.items()
            if share > limit
        ]
        _tell_months(context, months, found)
        told = [f"{month}: {text}" for month, text in found]
        advice = "look at their reasons in gold.demand_forecast, then at the model that made them"
        return dg.AssetCheckResult(
            passed=not told,
            metadata={
                "months": _span(months),
                "guarded_share": max(shares.values(), default=0.0),
            },
            description=f"{'; '.join(told)}; {advice}" if told else None,
        )

    return _check


def _drift_check(partitions: dg.PartitionsDefinition) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset_key(DEMAND_DRIFT),
        partitions_def=partitions,
        name="no_drift",
        description="Warns where a month's demand does not look like the past.",
    )
    def _check(
        context: dg.AssetCheckExecutionContext, lakehouse: dg.ResourceParam[Lakehouse]
    ) -> dg.AssetCheckResult:
        months = _months(context)
        rows = (
            lakehouse.read(DEMAND_DRIFT, months)
            .where("is_drift")
            .orderBy("yyyymm", "feature")
            .limit(100)
            .collect()
        )
        _tell_months(
            context,
            months,
            [(r["yyyymm"], f"{r['feature']}: {r['reason']}") for r in rows],
            dg.AssetCheckSeverity.WARN,
        )
        told = "\n".join(f"- {r['yyyymm']} {r['feature']}: {r['reason']}" for r in rows)
        return dg.AssetCheckResult(
            passed=not rows,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"findings": dg.MetadataValue.md(told or "none")},
            description=told.replace("- ", "") or None,
        )

    return _check


def _months_check(spec: TableSpec, settings: Settings) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset_key(spec),
        name="no_month_waits",
        description=(
            "Warns where the table lacks a complete month, or made one before all its lines were"
            " there. Which months are made counts, not when something was made last."
        ),
    )
    def _check(lakehouse: dg.ResourceParam[Lakehouse]) -> dg.AssetCheckResult:
        months = months_of_tables(lakehouse, settings)[spec]
        told = [
            f"{what}: {listed(found)}"
            for what, found in (("missing", months.missing), ("late", months.late))
            if found
        ]
        return dg.AssetCheckResult(
            passed=not months.due,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"newest_complete_month": months.newest or 0, "months_due": len(months.due)},
            description="; ".join(told) or None,
        )

    return _check


def _retraining_check() -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset_key(RETRAINING_DECISION),
        name="no_retraining_waits",
        description=(
            "Warns where the newest decision is to train again and retraining.mode leaves that to a"
            " person."
        ),
    )
    def _check(
        context: dg.AssetCheckExecutionContext, lakehouse: dg.ResourceParam[Lakehouse]
    ) -> dg.AssetCheckResult:
        last = last_decision(lakehouse.rows(RETRAINING_DECISION))
        waits = last is not None and last["decision"] == "retrain" and last["mode"] == "suggest"
        told = (
            f"train {last['yyyymm']} again: {last['reason']}"
            if last is not None and waits
            else None
        )
        return dg.AssetCheckResult(
            passed=not waits, severity=dg.AssetCheckSeverity.WARN, description=told
        )

    return _check
