"""Evidence and its figures: forecasts beside what was then sold, errors by segment, losses per
part.

Pure DataFrame to DataFrame, nothing is collected. Every figure is taken on identical cells and is
bit-identical however the rows are partitioned. Who wins on these figures is decided in
promotion.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from itertools import pairwise
from operator import and_

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from medallion_assets import figures
from medallion_assets.exact import exact_sums, exact_sums_again, ratio, total
from medallion_assets.figures import DEMAND, FIGURES, Amount, Cell, Counted, Figure, Held
from medallion_assets.partitions import add_months, month_range
from medallion_assets.tables import DECILES, LEVELS, MODEL_EVALUATION, ZOO_RESULT
from resources.settings import PromotionSettings

MAX_MISSING_SHARE_PCT = 1
MAX_REGIONS = 20
SEGMENT_KINDS = ("all", "demand_class", "abc_class", "region")
HORIZON_GROUPS = ("short", "mid", "long")
ABC_CLASSES = ("A", "B", "C")
LOSS_GROUPS = (*HORIZON_GROUPS, *ABC_CLASSES)
LOSS_SUMS = ("loss_qty", "actual_qty", "bias_qty", "squared_error")

Classes = Mapping[str, Collection[str]]
"""Contestants: model -> the demand classes it is asked for."""

_CELL = ("yyyymm", "origin", "part_number", "horizon")
_MAX_BITS = 62  # of a BIGINT that holds a set of models or origins


def zoo_result(  # noqa: PLR0913, PLR0917 - three tables upstream, and which of their cells count
    zoo_forecast: DataFrame,
    monthly_demand: DataFrame,
    demand_features: DataFrame,
    months: Mapping[int, Sequence[int]],
    classes: Classes | None = None,
    stored: Collection[int] | None = None,
) -> DataFrame:
    """gold.zoo_result of the decision months in ``months`` (decision month -> its evidence
    origins).

    Of the listed origins every cell of every model is kept whose target month is complete and not
    after the decision month. Origins younger than the newest listed one add the cells that every
    model has which appears in the month's evidence and is asked for the cell's class. Class, ABC,
    region, price and scales are those of the origin. Without listed origins a month has no
    evidence. ``classes`` limits the rows to the named models and to the classes they are asked for;
    without it every model is asked for all. ``stored``: origins that ``zoo_forecast`` holds, where
    that is known; it saves looking for younger ones that are not there.
    """
    session = zoo_forecast.sparkSession
    scheduled = [entry for entry in _schedule(months) if stored is None or entry[1] in stored]
    schedule = session.createDataFrame(scheduled, "yyyymm int, origin int, is_listed boolean")
    forecasts = zoo_forecast.withColumnRenamed("yyyymm", "origin").where(
        F.col("origin").isin(*_all_origins(months))
    )
    evidence = forecasts.join(F.broadcast(schedule), "origin").where("target_yyyymm <= yyyymm")
    features = demand_features.where(F.col("yyyymm").isin(*_all_origins(months))).select(
        F.col("yyyymm").alias("origin"),
        *(
            "part_number",
            "demand_class",
            "abc_class",
            "region",
            "unit_price",
            "naive_rmse_scale",
            "seasonal_mae_scale",
        ),
    )
    actuals = monthly_demand.where("is_complete").select(
        F.col("yyyymm").alias("target_yyyymm"),
        "part_number",
        F.col("demand_qty").alias("actual_qty"),
    )
    rows = evidence.join(features, ["origin", "part_number"]).join(
        actuals, ["target_yyyymm", "part_number"]
    )
    if classes is not None:
        rows = _asked(rows, classes)
    if all(is_listed for _, _, is_listed in scheduled):
        return rows.select(*ZOO_RESULT.column_names)
    appearing = evidence.select("yyyymm", "model").distinct()
    if classes is None:
        expected = appearing.groupBy("yyyymm").agg(F.count("*").alias("expected_count"))
        keys = ["yyyymm"]
    else:
        expected = appearing.join(F.broadcast(_asked_classes(rows, classes)), "model")
        expected = expected.groupBy("yyyymm", "demand_class").agg(
            F.count("*").alias("expected_count")
        )
        keys = ["yyyymm", "demand_class"]
    held = F.count("*").over(Window.partitionBy(*_CELL))
    younger = (
        rows.where("NOT is_listed").withColumn("held_count", held).join(F.broadcast(expected), keys)
    )
    kept = rows.where("is_listed").select(*ZOO_RESULT.column_names)
    return kept.unionByName(
        younger.where("held_count = expected_count").select(*ZOO_RESULT.column_names)
    )


def fit_seconds(zoo_forecast: DataFrame, months: Mapping[int, Sequence[int]]) -> DataFrame:
    """Seconds a model needed for one origin, mean over the evidence origins: yyyymm (decision
    month), model, fit_seconds.
    """
    rows = [(month, origin) for month, origins in months.items() for origin in origins]
    schedule = zoo_forecast.sparkSession.createDataFrame(rows, "yyyymm int, origin int")
    by_origin = zoo_forecast.groupBy(F.col("yyyymm").alias("origin"), "model").agg(
        F.max("fit_seconds").alias("fit_seconds")
    )
    joined = by_origin.join(F.broadcast(schedule), "origin")
    mean = joined.groupBy("yyyymm", "model").agg(
        *exact_sums("fit_seconds", F.col("fit_seconds")), F.count("fit_seconds").alias("n")
    )
    return mean.select("yyyymm", "model", ratio(total("fit_seconds"), "n").alias("fit_seconds"))


def compared_cells(zoo_result: DataFrame, classes: Classes) -> DataFrame:
    """The rows of ``zoo_result`` that count: identical cells for all models compared.

    A cell of a class counts when every model compared in that class has it, with finite numbers. A
    model is compared in a class it is asked for unless it lacks more than 1 % of the cells that any
    contestant has there: a model that leaves out many cells drops out instead of choosing the cells
    on which the others are compared. Raises ValueError for more than 62 contestants.
    """
    rows = _usable(_asked(zoo_result, classes))
    cells = _cells(rows)
    compared = _compared_models(_cell_counts(cells), classes)
    required = compared.groupBy("yyyymm", "demand_class").agg(
        F.bit_or("model_bit").alias("required")
    )
    lacking = (
        cells.join(F.broadcast(required), ["yyyymm", "demand_class"])
        .where("(holders & required) != required")
        .select(*_CELL)
    )
    counted = rows.where("is_usable").join(
        F.broadcast(compared.drop("model_bit")), ["yyyymm", "demand_class", "model"]
    )
    # Broadcast, because there are few: each compared model lacks 1 % at most. The alternative
    # shuffles every row.
    return counted.join(F.broadcast(lacking), list(_CELL), "left_anti")


def model_evaluation(
    zoo_result: DataFrame, fit_seconds: DataFrame, classes: Classes, settings: PromotionSettings
) -> DataFrame:
    """gold.model_evaluation: every figure by decision month, model, segment and horizon (0: all),
    on the cells of ``compared_cells``.

    Segments are all, each demand class, each ABC class, and the 20 regions with most demand. A
    model that isn't asked for every class with cells in the month has rows for its classes and none
    for the other segments, where it could not be compared on identical cells. missing_cell_count
    are the cells that some contestant has and this one lacks or has without finite numbers; a model
    that is not compared on all cells of a row has no figures there and cell_count 0. Figures whose
    denominator is zero are NULL. Absolute errors are those of q50, squared errors, bias and stock
    cost those of forecast_qty. MASE (Hyndman and Koehler 2006): mean over cells with a scale, RMSSE
    (M5 competition): root of the mean scaled square of a part, mean over parts, both on the scale
    as of each cell's origin. WQL: mean over the deciles of 2 * sum(pinball) / sum(demand).
    Calibration by the randomised PIT (Czado, Gneiting and Held 2009). stock_cost: units too many
    and too few times price and the settings' rates; cells without a price are left out of it.

    ``fit_seconds``: yyyymm, model, fit_seconds. ``zoo_result`` is read several times: give the
    stored table.
    """
    keys = ["yyyymm", "model", "segment_kind", "segment", "horizon"]
    general = _general(zoo_result, classes)
    counts = _cell_counts(_cells(_usable(_asked(zoo_result, classes))))
    counted = compared_cells(zoo_result, classes)
    availability = (
        _by_segment(_availability(counts, classes), general)
        .groupBy(*keys)
        .agg(F.sum("lacking_count").alias("missing_cell_count"), *exact_sums_again("known_qty"))
    )
    joined = (
        _largest_regions(availability)
        .join(_sums_by_segment(_cell_figures(counted, settings), general), keys, "left")
        .join(_parts_by_segment(counted, general), keys, "left")
        .join(fit_seconds, ["yyyymm", "model"], "left")
    )
    compared = F.max("cells").over(
        Window.partitionBy("yyyymm", "segment_kind", "segment", "horizon")
    )
    with_all = joined.withColumn("has_all", F.coalesce(F.col("cells") == compared, F.lit(False)))
    known = {name: F.when(F.col("has_all"), figure) for name, figure in _figures().items()}
    zero = {
        name: F.coalesce(known[name], F.lit(0))
        for name in ("cell_count", "part_count", "origin_count", "actual_qty")
    }
    columns = {**known, **zero}
    return with_all.select(
        *(
            columns.get(c.name, F.col(c.name)).cast(c.type).alias(c.name)
            for c in MODEL_EVALUATION.columns
        ),
    )


def part_losses(
    zoo_result: DataFrame, classes: Classes, horizon: int, max_parts: int = 20_000
) -> DataFrame:
    """What a difference varies by over parts: one row per decision month, demand class, part and
    model compared there, with the sums of ``_summed_losses``.

    Of classes with more than ``max_parts`` parts those with the smallest hash are kept.
    """
    by_part = _summed_losses(zoo_result, classes, horizon, "part_number")
    order = F.dense_rank().over(
        Window.partitionBy("yyyymm", "demand_class").orderBy(
            F.xxhash64("part_number"), "part_number"
        )
    )
    sampled = by_part.withColumn("part_rank", order).where(F.col("part_rank") <= max_parts)
    return sampled.drop("part_rank")


def month_losses(zoo_result: DataFrame, classes: Classes, horizon: int) -> DataFrame:
    """What a difference varies by over time: one row per decision month, demand class, target month
    and model compared there, with the sums of ``_summed_losses``, of all parts.
    """
    return _summed_losses(zoo_result, classes, horizon, "target_yyyymm")


def _summed_losses(zoo_result: DataFrame, classes: Classes, horizon: int, unit: str) -> DataFrame:
    """By decision month, demand class, ``unit`` and model, on ``compared_cells``: cell_count,
    loss_qty (2 * pinball loss, mean over the deciles: WQL = sum(loss_qty) / sum(actual_qty)),
    actual_qty, bias_qty (forecast_qty less demand), units; squared_error of forecast_qty, units
    squared; and cell_count, loss_qty and actual_qty again with a suffix for each third of the
    ``horizon`` (short, mid, long) and each ABC class.
    """
    keys = ("yyyymm", "demand_class", unit, "model")
    error = F.col("forecast_qty") - F.col("actual_qty")
    rows = compared_cells(zoo_result, classes).select(
        *(*keys, "actual_qty"),
        F.col("abc_class").alias("abc"),
        F.element_at(
            F.array(*(F.lit(group) for group in HORIZON_GROUPS)),
            F.floor((F.col("horizon") - 1) * 3 / horizon).cast("int") + 1,
        ).alias("third"),
        _quantile_loss().alias("loss_qty"),
        error.alias("bias_qty"),
        (error * error).alias("squared_error"),
    )
    within = {
        group: F.col("third" if group in HORIZON_GROUPS else "abc") == group
        for group in LOSS_GROUPS
    }
    sums = [
        F.count("*").alias("cell_count"),
        *(column for name in LOSS_SUMS for column in exact_sums(name, F.col(name))),
        *(
            F.count(F.when(inside, 1)).alias(f"cell_count_{group}")
            for group, inside in within.items()
        ),
        *(
            column
            for group, inside in within.items()
            for name in ("loss_qty", "actual_qty")
            for column in exact_sums(f"{name}_{group}", F.when(inside, F.col(name)))
        ),
    ]
    return (
        rows.groupBy(*keys)
        .agg(*sums)
        .select(
            *(*keys, "cell_count"),
            *(total(name).alias(name) for name in LOSS_SUMS),
            *(
                (
                    F.col(name)
                    if name.startswith("cell_count")
                    else F.coalesce(total(name), F.lit(0.0)).alias(name)
                )
                for group in LOSS_GROUPS
                for name in (f"cell_count_{group}", f"loss_qty_{group}", f"actual_qty_{group}")
            ),
        )
    )


def monthly_totals(zoo_result: DataFrame) -> DataFrame:
    """Totals of all parts one month ahead, for a plot: yyyymm, model, target_yyyymm, actual_qty,
    forecast_qty, units. Deciles of parts do not add up, so there are none.
    """
    names = ("actual_qty", "forecast_qty")
    sums = [column for name in names for column in exact_sums(name, F.col(name))]
    totals = (
        _usable(zoo_result)
        .where("horizon = 1 AND is_usable")
        .groupBy("yyyymm", "model", "target_yyyymm")
        .agg(*sums)
    )
    return totals.select(
        "yyyymm", "model", "target_yyyymm", *(total(name).alias(name) for name in names)
    )


def pit_histogram(zoo_result: DataFrame) -> DataFrame:
    """Cells by tenth of the randomised PIT, for a plot: yyyymm, model, tenth (1 ... 10),
    cell_count. Even tenths are calibrated.
    """
    tenth = F.least(F.floor(_pit() * 10) + 1, F.lit(10)).cast("int").alias("tenth")
    return (
        _usable(zoo_result)
        .where("is_usable")
        .groupBy("yyyymm", "model", tenth)
        .agg(F.count("*").alias("cell_count"))
    )


def _all_origins(months: Mapping[int, Sequence[int]]) -> list[int]:
    return sorted({origin for _, origin, _ in _schedule(months)})


def _schedule(months: Mapping[int, Sequence[int]]) -> list[tuple[int, int, bool]]:
    listed = [(month, origin, True) for month, origins in months.items() for origin in origins]
    younger = [
        (month, origin, False)
        for month, origins in months.items()
        if origins
        for origin in month_range(add_months(max(origins), 1), add_months(month, -1))
    ]
    return listed + younger


def _asked_classes(rows: DataFrame, classes: Classes) -> DataFrame:
    """model, demand_class, model_bit: one row per class a model is asked for."""
    if len(classes) > _MAX_BITS:
        raise ValueError(f"{len(classes)} contestants; at most {_MAX_BITS} can be compared")
    asked = [
        (model, name, 1 << bit)
        for bit, model in enumerate(sorted(classes))
        for name in classes[model]
    ]
    return rows.sparkSession.createDataFrame(
        asked, "model string, demand_class string, model_bit bigint"
    )


def _asked(rows: DataFrame, classes: Classes) -> DataFrame:
    return rows.join(F.broadcast(_asked_classes(rows, classes)), ["model", "demand_class"])


def _usable(rows: DataFrame) -> DataFrame:
    # NaN is larger than infinity in Spark, so one comparison finds NaN, infinity and, coalesced,
    # NULL.
    finite = (
        F.coalesce(F.abs(name) < float("inf"), F.lit(False)) for name in ("forecast_qty", *DECILES)
    )
    return rows.withColumn("is_usable", reduce(and_, finite))


def _cells(rows: DataFrame) -> DataFrame:
    """One row per cell with the bits of the models that have it."""
    holder = F.when(F.col("is_usable"), F.col("model_bit")).otherwise(F.lit(0).cast("bigint"))
    return rows.groupBy(*_CELL, "demand_class", "abc_class", "region", "actual_qty").agg(
        F.bit_or(holder).alias("holders")
    )


def _cell_counts(cells: DataFrame) -> DataFrame:
    """Cells by segment, horizon and holders: small, whatever the number of parts."""
    keys = ("yyyymm", "demand_class", "abc_class", "region", "horizon", "holders")
    return cells.groupBy(*keys).agg(
        F.count("*").alias("universe_count"), *exact_sums("known_qty", F.col("actual_qty"))
    )


def _availability(counts: DataFrame, classes: Classes) -> DataFrame:
    """``counts`` for every model that is asked for the class, with lacking_count."""
    asked = counts.join(F.broadcast(_asked_classes(counts, classes)), "demand_class")
    lacks = F.col("holders").bitwiseAND(F.col("model_bit")) == 0
    return asked.withColumn(
        "lacking_count", F.when(lacks, F.col("universe_count")).otherwise(F.lit(0))
    )


def _compared_models(counts: DataFrame, classes: Classes) -> DataFrame:
    """yyyymm, demand_class, model, model_bit of the models that lack at most 1 % of the class's
    cells.
    """
    totals = (
        _availability(counts, classes)
        .groupBy("yyyymm", "demand_class", "model", "model_bit")
        .agg(F.sum("lacking_count").alias("lacking"), F.sum("universe_count").alias("universe"))
    )
    return totals.where(F.col("lacking") * 100 <= F.col("universe") * MAX_MISSING_SHARE_PCT).drop(
        "lacking", "universe"
    )


def _general(rows: DataFrame, classes: Classes) -> DataFrame:
    """yyyymm, model of the models that are asked for every class with cells in the month; few."""
    with_cells = rows.select("yyyymm", "demand_class").distinct()
    needed = with_cells.groupBy("yyyymm").agg(F.count("*").alias("class_count"))
    asked = with_cells.join(F.broadcast(_asked_classes(rows, classes)), "demand_class")
    held = asked.groupBy("yyyymm", "model").agg(F.count("*").alias("class_count"))
    return held.join(F.broadcast(needed), ["yyyymm", "class_count"]).select("yyyymm", "model")


def _by_segment(rows: DataFrame, general: DataFrame) -> DataFrame:
    """``rows`` once for each segment they belong to and for their horizon and horizon 0;
    ``general`` as _general gives it.
    """
    rows = rows.join(
        F.broadcast(general.withColumn("covers_all", F.lit(True))), ["yyyymm", "model"], "left"
    )
    covers_all = F.col("covers_all")
    kind = F.col("segment_kind")
    # Kinds are exploded and values looked up: columns of a table differ in their comments, and not
    # every engine puts such into one array.
    segment = (
        F.when(kind == "demand_class", F.col("demand_class"))
        .when((kind == "all") & covers_all, F.lit("all"))
        .when((kind == "abc_class") & covers_all, F.col("abc_class"))
        .when((kind == "region") & covers_all, F.col("region"))
    )
    return (
        rows.withColumn("segment_kind", F.explode(F.array(*map(F.lit, SEGMENT_KINDS))))
        .withColumn("segment", segment)
        .where("segment IS NOT NULL")
        .withColumn("horizon", F.explode(F.array(F.lit(0), F.col("horizon"))))
        .drop("covers_all")
    )


def _largest_regions(rows: DataFrame) -> DataFrame:
    """``rows`` without the regions beyond the 20 with most demand."""
    of_region = Window.partitionBy("yyyymm", "segment_kind", "segment")
    known = rows.withColumn(
        "region_qty", F.max(F.when(F.col("horizon") == 0, total("known_qty"))).over(of_region)
    )
    place = F.dense_rank().over(
        Window.partitionBy("yyyymm", "segment_kind").orderBy(F.col("region_qty").desc(), "segment")
    )
    return known.withColumn("place", place).where(
        (F.col("segment_kind") != "region") | (F.col("place") <= MAX_REGIONS)
    )


def _with_former(counted: DataFrame) -> DataFrame:
    """``counted`` with former_qty, the expected demand of the same model, part and month at the
    origin before, NULL where that did not forecast it.

    A join, since a window would sort all rows with all columns.
    """
    of_month = ["yyyymm", "model", "part_number", "target_yyyymm"]
    former = counted.select(
        *of_month,
        (F.col("horizon") - 1).alias("horizon"),
        F.col("forecast_qty").alias("former_qty"),
    )
    return counted.join(former, [*of_month, "horizon"], "left")


def _scale(name: str) -> Column:
    """A scale of the part, NULL where it is none."""
    return F.when((F.col(name) > 0) & (F.col(name) < float("inf")), F.col(name))


def _cell_figures(counted: DataFrame, settings: PromotionSettings) -> DataFrame:
    """What each cell adds to the sums; NULL where it does not count for a figure."""
    y, mean, median = F.col("actual_qty"), F.col("forecast_qty"), F.col("q50")
    error = F.abs(y - median)
    price = F.when(F.abs("unit_price") < float("inf"), F.col("unit_price"))
    cost = settings.over_rate * F.greatest(mean - y, F.lit(0.0)) + settings.under_rate * F.greatest(
        y - mean, F.lit(0.0)
    )
    former = F.col("former_qty")
    cell = Cell(
        demand=y,
        mean=mean,
        median=median,
        q10=F.col(DECILES[0]),
        q90=F.col(DECILES[-1]),
        absolute_error=error,
        squared_error=(y - mean) * (y - mean),
        relative_error=F.when(y > 0, ratio(error, y)),
        scaled_error=ratio(error, _scale("seasonal_mae_scale")),
        quantile_loss=_quantile_loss(),
        pit=_pit(),
        price=price,
        cost=cost,
        is_fallback=F.col("is_fallback"),
        revision=F.abs(mean - former),
        revised_demand=F.when(former.isNotNull(), y),
    )
    return _with_former(counted).select(
        *("yyyymm", "model", "horizon", "demand_class", "abc_class", "region"),
        # Evidence spans H + K - 1 months, 59 at most: a bit per origin counts them without a set.
        F.expr(f"shiftleft(1L, pmod(origin div 100 * 12 + origin % 100, {_MAX_BITS}))").alias(
            "origin_bit"
        ),
        *(amount.of(cell).alias(amount.name) for amount in figures.summed()),
        *(amount.where(cell).alias(amount.name) for amount in figures.counted()),
    )


def _sums_by_segment(cells: DataFrame, general: DataFrame) -> DataFrame:
    # First the finest groups, then segments: the many rows are read once, and a segment is a sum of
    # few.
    summed = [amount.name for amount in figures.summed()]
    counted = [amount.name for amount in figures.counted()]
    finest = cells.groupBy("yyyymm", "model", "demand_class", "abc_class", "region", "horizon").agg(
        F.count("*").alias("cells"),
        F.bit_or("origin_bit").alias("origin_bits"),
        *(column for name in summed for column in exact_sums(name, F.col(name))),
        *(F.count(F.when(F.col(name), 1)).alias(name) for name in counted),
    )
    return (
        _by_segment(finest, general)
        .groupBy("yyyymm", "model", "segment_kind", "segment", "horizon")
        .agg(
            F.sum("cells").alias("cells"),
            F.bit_count(F.bit_or("origin_bits")).alias("origins"),
            *(column for name in summed for column in exact_sums_again(name)),
            *(F.sum(name).alias(name) for name in counted),
        )
    )


def _parts_by_segment(counted: DataFrame, general: DataFrame) -> DataFrame:
    """Figures that are means over parts: the number of parts and the sum of their RMSSE."""
    keys = ("yyyymm", "model", "segment_kind", "segment", "horizon")
    error, scale = F.col("actual_qty") - F.col("forecast_qty"), _scale("naive_rmse_scale")
    scaled = ratio(error * error, scale * scale)
    finest = counted.groupBy(
        "yyyymm", "model", "part_number", "demand_class", "abc_class", "region", "horizon"
    ).agg(*exact_sums("scaled", scaled), F.count(scaled).alias("scaled_cells"))
    by_part = (
        _by_segment(finest, general)
        .groupBy(*keys, "part_number")
        .agg(*exact_sums_again("scaled"), F.sum("scaled_cells").alias("scaled_cells"))
    )
    rmsse = F.sqrt(ratio(total("scaled"), "scaled_cells"))
    return by_part.groupBy(*keys).agg(
        F.count("*").alias("parts"),
        *exact_sums("part_rmsse", rmsse),
        F.count(rmsse).alias("scaled_parts"),
    )


def _figures() -> dict[str, Column]:
    """Every column that is made of sums, by name."""
    return {
        "cell_count": F.col("cells"),
        "part_count": F.col("parts"),
        "origin_count": F.col("origins"),
        "actual_qty": total(DEMAND.name),
        **{figure.name: _figure(figure) for figure in FIGURES},
    }


def _figure(figure: Figure) -> Column:
    over = _amount(figure.over)
    value = over if figure.per is None else ratio(over, _amount(figure.per))
    return F.sqrt(value) if figure.is_root else value


def _amount(amount: Amount) -> Column:
    is_count = isinstance(amount, Counted) or (isinstance(amount, Held) and amount.is_count)
    return F.col(amount.name) if is_count else total(amount.name)


def _quantile_loss() -> Column:
    """Twice the pinball loss, mean over the deciles, of one cell, units."""
    y = F.col("actual_qty")
    losses = (
        F.when(y >= F.col(name), level * (y - F.col(name))).otherwise(
            (1 - level) * (F.col(name) - y)
        )
        for name, level in zip(DECILES, LEVELS, strict=True)
    )
    return F.lit(2 / len(DECILES)) * reduce(lambda total, loss: total + loss, losses)


def _probability(y: Column) -> Column:
    """F(y), linear between the deciles, 1 above q90, half a tenth below q10 and 0 below zero.

    Where y is a decile F jumps, and lies between the highest level with that decile and the next:
    half a tenth above it.
    """
    knots = list(zip(DECILES, LEVELS, strict=True))
    half = LEVELS[0] / 2
    # From the top down, so that of equal deciles the highest holds.
    probability = F.when(y > F.col(DECILES[-1]), F.lit(1.0))
    for name, level in reversed(knots):
        probability = probability.when(y == F.col(name), F.lit(level + half))
    for (low, low_level), (high, high_level) in reversed(list(pairwise(knots))):
        share = ratio(y - F.col(low), F.col(high) - F.col(low))
        probability = probability.when(y > F.col(low), low_level + (high_level - low_level) * share)
    return probability.when(y >= 0, F.lit(half)).otherwise(F.lit(0.0))


def _pit() -> Column:
    """A point drawn in [F(y - 1), F(y)] by a hash of the cell: the same for every model, run and
    order of rows.
    """
    y = F.col("actual_qty")
    low, high = _probability(y - 1), _probability(y)
    uniform = F.shiftrightunsigned(F.xxhash64("origin", "part_number", "horizon"), 11) * F.lit(
        2.0**-53
    )
    return low + uniform * (high - low)
