"""The evidence of a decision month and the figures made from it: which cells count, what each
figure is, that order does not matter.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from pyspark.sql import DataFrame, SparkSession

from medallion_assets.champion.evaluation import (
    fit_seconds,
    model_evaluation,
    month_losses,
    monthly_totals,
    part_losses,
    pit_histogram,
    zoo_result,
)
from medallion_assets.champion.promotion import Contestant, Losses, decide
from medallion_assets.tables import DECILES, DEMAND_CLASSES, MODEL_EVALUATION, ZOO_RESULT
from resources.settings import PromotionSettings

pytestmark = pytest.mark.spark

ALL = DEMAND_CLASSES
CLASSES = dict.fromkeys(("naive", "ets", "half", "odd", "gone", "seasonal_naive", "zero"), ALL) | {
    "smooth_only": ("smooth",)
}
RESULT_TYPES = ", ".join(f"{c.name} {c.type}" for c in ZOO_RESULT.columns)
SETTINGS = PromotionSettings(min_parts=1, min_cells=1, over_rate=0.1, under_rate=0.5)


def cell(
    month: int, model: str, part: str, forecast: float | None, actual: float, **other: Any
) -> dict[str, Any]:
    """One row of gold.zoo_result whose deciles all equal the forecast."""
    row: dict[str, Any] = dict.fromkeys(DECILES, forecast)
    row |= {
        "yyyymm": month,
        "model": model,
        "origin": 202307,
        "part_number": part,
        "horizon": 1,
        "target_yyyymm": 202308,
    }
    row |= {
        "forecast_qty": forecast,
        "actual_qty": actual,
        "is_fallback": False,
        "demand_class": "smooth",
        "abc_class": "A",
    }
    row |= {
        "region": "North",
        "unit_price": 2.0,
        "naive_rmse_scale": 4.0,
        "seasonal_mae_scale": 2.0,
    }
    return row | other


# Every decision month is a case of its own, so that one evaluation serves all tests.
FIGURES, PART_MEANS, COUNTS, SEGMENTS, HALF, GAP, NAN, INFINITE, NULL, GONE, RESTRICTED, REGIONS = (
    range(202401, 202413)
)
RIGGED_HALF, RIGGED_NAN, RIGGED_ZERO, REVISED = range(202501, 202505)
UNIFORM_0_TO_4 = dict(zip(DECILES, (0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0), strict=True))
SPARSE = {f"P{i}": 3.0 if i % 4 == 0 else 0.0 for i in range(40)}


def rigged(month: int, forecasts: Mapping[str, float]) -> list[dict[str, Any]]:
    """Sparse demand, a poor baseline, and a model ``zero`` that forecasts what is given."""
    baseline = [
        cell(month, "seasonal_naive", part, 3.0 - qty, qty, demand_class="lumpy")
        for part, qty in SPARSE.items()
    ]
    return baseline + [
        cell(month, "zero", part, forecast, SPARSE[part], demand_class="lumpy")
        for part, forecast in forecasts.items()
    ]


CASES: list[dict[str, Any]] = [
    cell(FIGURES, "naive", "P1", 4.0, 5.0),
    cell(FIGURES, "naive", "P2", 6.0, 0.0, naive_rmse_scale=0.0, unit_price=None),
    cell(PART_MEANS, "naive", "P1", 4.0, 0.0),
    cell(PART_MEANS, "naive", "P1", 0.0, 0.0, horizon=2),
    cell(PART_MEANS, "naive", "P2", 8.0, 0.0),
    *(cell(COUNTS, "naive", f"P{i}", 2.0, float(i % 5), **UNIFORM_0_TO_4) for i in range(400)),
    *(
        cell(REVISED, "naive", "P1", forecast, 5.0, origin=origin, horizon=horizon)
        for origin, horizon, forecast in ((202304, 4, 9.0), (202306, 2, 8.0), (202307, 1, 6.0))
    ),
    cell(REVISED, "naive", "P2", 3.0, 7.0),
    cell(SEGMENTS, "naive", "P1", 4.0, 5.0),
    cell(SEGMENTS, "naive", "P1", 1.0, 5.0, horizon=6, origin=202306),
    cell(SEGMENTS, "naive", "P2", 6.0, 0.0, abc_class="B", region=None),
    cell(HALF, "naive", "P1", 5.0, 5.0),
    cell(HALF, "naive", "P2", 0.0, 5.0),
    cell(HALF, "half", "P1", 5.0, 5.0),
    *(
        cell(GAP, model, f"P{i}", 1.0, 2.0)
        for model in ("naive", "ets")
        for i in range(100)
        if (model, i) != ("ets", 7)
    ),
    *(cell(month, "naive", "P1", 4.0, 5.0) for month in (NAN, INFINITE, NULL, GONE)),
    cell(NAN, "odd", "P1", 4.0, 5.0, q90=float("nan")),
    cell(INFINITE, "odd", "P1", 4.0, 5.0, q90=float("inf")),
    cell(NULL, "odd", "P1", 4.0, 5.0, q90=None),
    cell(RESTRICTED, "naive", "P1", 4.0, 5.0),
    cell(RESTRICTED, "naive", "P2", 4.0, 5.0, demand_class="lumpy"),
    cell(RESTRICTED, "smooth_only", "P1", 4.0, 5.0),
    *(
        cell(
            REGIONS,
            "naive",
            f"P{i}",
            10.0 ** (i % 9) / 3,
            0.1 * (i + 1),
            region=f"R{i:02}",
            unit_price=1 / (i + 1),
        )
        for i in range(22)
    ),
    *rigged(RIGGED_HALF, {part: 0.0 for part, qty in SPARSE.items() if qty == 0}),
    *rigged(RIGGED_NAN, dict.fromkeys(SPARSE, float("nan"))),
    *rigged(RIGGED_ZERO, dict.fromkeys(SPARSE, 0.0)),
]


@pytest.fixture(scope="module")
def result(spark: SparkSession) -> DataFrame:
    rows = [tuple(row[c.name] for c in ZOO_RESULT.columns) for row in CASES]
    return spark.createDataFrame(rows, RESULT_TYPES).repartition(7)


@pytest.fixture(scope="module")
def seconds(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame(
        [(FIGURES, "naive", 3.0)], "yyyymm int, model string, fit_seconds double"
    )


@pytest.fixture(scope="module")
def evaluation(result: DataFrame, seconds: DataFrame) -> pd.DataFrame:
    return model_evaluation(result, seconds, CLASSES, SETTINGS).toPandas()


@pytest.fixture(scope="module")
def losses(result: DataFrame) -> pd.DataFrame:
    return part_losses(result, CLASSES, horizon=6).toPandas()


@pytest.fixture(scope="module")
def by_month(result: DataFrame) -> pd.DataFrame:
    return month_losses(result, CLASSES, horizon=6).toPandas()


def figures(
    evaluation: pd.DataFrame, month: int, kind: str = "all", segment: str = "all", horizon: int = 0
) -> dict[str, Any]:
    """The rows of one month, segment and horizon, by model."""
    rows = evaluation[
        (evaluation["yyyymm"] == month)
        & (evaluation["segment_kind"] == kind)
        & (evaluation["segment"] == segment)
    ]
    return {str(row["model"]): row for row in rows[rows["horizon"] == horizon].to_dict("records")}


def forecasts(spark: SparkSession, cells: Iterable[tuple[int, str, str, int, int]]) -> DataFrame:
    """gold.zoo_forecast of (origin, model, part, horizon, target month), all deciles 1, fitted in
    as many seconds as the origin's month.
    """
    rows = [(*key, *(1.0 for _ in range(10)), False, float(key[0] % 100)) for key in cells]
    deciles = ", ".join(f"{name} double" for name in DECILES)
    types = (
        "yyyymm int, model string, part_number string, horizon int, target_yyyymm int, forecast_qty"
        " double"
    )
    return spark.createDataFrame(
        rows, f"{types}, {deciles}, is_fallback boolean, fit_seconds double"
    )


def demand(spark: SparkSession, complete: Iterable[int], partial: Iterable[int] = ()) -> DataFrame:
    rows = [
        (month, part, 5.0, month in set(complete))
        for month in (*complete, *partial)
        for part in ("P1", "P2")
    ]
    return spark.createDataFrame(
        rows, "yyyymm int, part_number string, demand_qty double, is_complete boolean"
    )


def features(spark: SparkSession, origins: Iterable[int], classes: Mapping[str, str]) -> DataFrame:
    rows = [
        (origin, part, name, "A", "North", 2.0, 1.0, 1.0)
        for origin in origins
        for part, name in classes.items()
    ]
    types = (
        "yyyymm int, part_number string, demand_class string, abc_class string, region string,"
        " unit_price double"
    )
    return spark.createDataFrame(
        rows, f"{types}, naive_rmse_scale double, seasonal_mae_scale double"
    )


def test_zoo_result_keeps_listed_origins_whole_and_of_younger_ones_the_cells_all_models_have(
    spark: SparkSession,
) -> None:
    """H = 2, decision month 202403: 202401 is listed, 202402 is younger and there only P1 has both
    models.
    """
    made = forecasts(
        spark,
        [
            (202401, "naive", "P1", 1, 202402),
            (202401, "ets", "P2", 2, 202403),
            (202402, "naive", "P1", 1, 202403),
            (202402, "ets", "P1", 1, 202403),
            (202402, "naive", "P2", 1, 202403),
            (202402, "naive", "P1", 2, 202404),
        ],
    )
    months = [202401, 202402, 202403, 202404]
    result = zoo_result(
        made,
        demand(spark, months),
        features(spark, months, {"P1": "smooth", "P2": "lumpy"}),
        {202403: [202401]},
    )
    assert result.columns == list(ZOO_RESULT.column_names)
    kept = {
        (r.model, r.origin, r.part_number, r.target_yyyymm, r.actual_qty) for r in result.collect()
    }
    assert kept == {
        ("naive", 202401, "P1", 202402, 5.0),
        ("ets", 202401, "P2", 202403, 5.0),
        ("naive", 202402, "P1", 202403, 5.0),
        ("ets", 202402, "P1", 202403, 5.0),
    }


def test_zoo_result_asks_a_restricted_model_only_for_its_classes(spark: SparkSession) -> None:
    """A younger cell of a lumpy part counts although the model for smooth parts lacks it, and that
    model's own lumpy cell does not.
    """
    made = forecasts(
        spark,
        [
            (202402, "naive", "P1", 1, 202403),
            (202402, "naive", "P2", 1, 202403),
            (202402, "ets", "P1", 1, 202403),
            (202401, "ets", "P2", 1, 202402),
        ],
    )
    known = features(spark, [202401, 202402], {"P1": "smooth", "P2": "lumpy"})
    classes = {"naive": ALL, "ets": ("smooth",)}
    result = zoo_result(made, demand(spark, [202402, 202403]), known, {202403: [202401]}, classes)
    assert {(r.model, r.origin, r.part_number) for r in result.collect()} == {
        ("naive", 202402, "P1"),
        ("naive", 202402, "P2"),
        ("ets", 202402, "P1"),
    }


def test_zoo_result_reads_no_partial_month(spark: SparkSession) -> None:
    """A target month whose orders are not all there gives no evidence."""
    made = forecasts(
        spark, [(202401, "naive", "P1", 1, 202402), (202401, "naive", "P1", 2, 202403)]
    )
    result = zoo_result(
        made,
        demand(spark, [202402], partial=[202403]),
        features(spark, [202401], {"P1": "new"}),
        {202403: [202401]},
    )
    assert [r.target_yyyymm for r in result.collect()] == [202402]


def test_fit_seconds_are_the_mean_over_evidence_origins(spark: SparkSession) -> None:
    """Origins 1 and 3 took one and three seconds; origin 5 is no evidence."""
    made = forecasts(spark, [(202301 + m, "naive", "P1", 1, 202302 + m) for m in (0, 2, 4)])
    assert [tuple(row) for row in fit_seconds(made, {202401: [202301, 202303]}).collect()] == [
        (202401, "naive", 2.0)
    ]


def test_each_figure_is_as_defined(evaluation: pd.DataFrame) -> None:
    """Two parts, forecasts 4 and 6 against 5 and 0, worked out by hand."""
    row = figures(evaluation, FIGURES)["naive"]
    expected = {
        "cell_count": 2,
        "part_count": 2,
        "origin_count": 1,
        "missing_cell_count": 0,
        "actual_qty": 5.0,
        "mae": 3.5,
    }
    expected |= {
        "rmse": (37 / 2) ** 0.5,
        "mape": 0.2,
        "mape_share": 0.5,
        "wape": 1.4,
        "mase": 3.5 / 2,
        "rmsse": 0.25,
        "wql": 1.4,
        "bias": 1.0,
    }
    expected |= {
        "coverage_80": 0.0,
        "revenue_weighted_error": 0.2,
        "stock_cost": 1.0,
        "fallback_share": 0.0,
        "fit_seconds": 3.0,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected)


def test_a_revision_is_a_change_since_the_origin_before(evaluation: pd.DataFrame) -> None:
    """From 8 to 6 at neighbouring origins, over the demand of 5; a month that the origin before did
    not forecast, and a part of one origin, say nothing.
    """
    assert figures(evaluation, REVISED)["naive"]["revision_share"] == pytest.approx(2 / 5)
    assert pd.isna(figures(evaluation, FIGURES)["naive"]["revision_share"])


def test_rmsse_is_a_mean_over_parts_and_not_over_cells(evaluation: pd.DataFrame) -> None:
    """P1 errs by 4 and 0 on a scale of 4 (root of 1/2), P2 by 8 once (2); without any demand there
    is no WQL.
    """
    row = figures(evaluation, PART_MEANS)["naive"]
    assert row["rmsse"] == pytest.approx((0.5**0.5 + 2) / 2)
    assert pd.isna(row["wql"])


def test_calibration_of_a_perfect_forecaster_of_counts_is_near_80_percent(
    evaluation: pd.DataFrame,
) -> None:
    """Demand is 0, 1, 2, 3 or 4 with probability .2 each, and the deciles say so; the closed
    interval covers all of it.
    """
    row = figures(evaluation, COUNTS)["naive"]
    assert row["coverage_80"] == 1.0
    assert 0.76 <= row["calibration_80"] <= 0.84


def test_a_segment_holds_its_own_cells(evaluation: pd.DataFrame) -> None:
    """Class, ABC class, region and horizon each give a row; horizon 0 holds all horizons, a part
    without region is in none.
    """
    rows = evaluation[(evaluation["yyyymm"] == SEGMENTS) & (evaluation["model"] == "naive")]
    cells = {(r.segment_kind, r.segment, r.horizon): r.cell_count for r in rows.itertuples()}
    assert cells[("all", "all", 0)] == cells[("demand_class", "smooth", 0)] == 3
    assert (cells[("all", "all", 1)], cells[("all", "all", 6)]) == (2, 1)
    assert (
        cells[("abc_class", "A", 0)],
        cells[("abc_class", "B", 0)],
        cells[("region", "North", 0)],
    ) == (2, 1, 2)
    assert figures(evaluation, SEGMENTS)["naive"]["origin_count"] == 2
    assert list(evaluation.columns) == list(MODEL_EVALUATION.column_names)


def test_a_model_that_leaves_out_half_the_cells_has_no_figures_and_shrinks_nobodys_evidence(
    evaluation: pd.DataFrame,
) -> None:
    """The model that keeps to the easy part lacks one of two cells; the baseline is still judged on
    both.
    """
    found = figures(evaluation, HALF)
    assert (found["naive"]["cell_count"], found["naive"]["missing_cell_count"]) == (2, 0)
    assert (found["half"]["cell_count"], found["half"]["missing_cell_count"]) == (0, 1)
    assert pd.isna(found["half"]["wql"])


def test_a_model_that_lacks_few_cells_is_compared_without_them_and_nobody_has_them(
    evaluation: pd.DataFrame,
) -> None:
    """One cell of 100 is missing, so that both models are judged on the other 99 and the gap is
    counted.
    """
    found = figures(evaluation, GAP)
    assert (found["naive"]["cell_count"], found["naive"]["missing_cell_count"]) == (99, 0)
    assert (found["ets"]["cell_count"], found["ets"]["missing_cell_count"]) == (99, 1)


@pytest.mark.parametrize("month", [NAN, INFINITE, NULL])
def test_a_number_that_is_none_makes_its_cell_missing(evaluation: pd.DataFrame, month: int) -> None:
    """NaN, infinity and NULL in one decile count as no forecast at all."""
    found = figures(evaluation, month)
    assert (found["odd"]["cell_count"], found["odd"]["missing_cell_count"]) == (0, 1)


def test_a_contestant_without_any_row_lacks_every_cell(evaluation: pd.DataFrame) -> None:
    """A model whose fit failed is named with all its cells missing, not left out."""
    found = figures(evaluation, GONE)
    assert (found["gone"]["cell_count"], found["gone"]["missing_cell_count"]) == (0, 1)


def test_a_restricted_model_is_compared_in_its_classes_only(evaluation: pd.DataFrame) -> None:
    """The model for smooth parts lacks no lumpy cell and has no row for all classes together."""
    assert "smooth_only" not in figures(evaluation, RESTRICTED)
    assert "smooth_only" not in figures(evaluation, RESTRICTED, "demand_class", "lumpy")
    smooth = figures(evaluation, RESTRICTED, "demand_class", "smooth")["smooth_only"]
    assert (smooth["cell_count"], smooth["missing_cell_count"]) == (1, 0)
    assert figures(evaluation, RESTRICTED)["naive"]["cell_count"] == 2


def test_a_restricted_model_is_compared_on_all_cells_where_they_are_all_of_its_classes(
    evaluation: pd.DataFrame,
) -> None:
    """With smooth cells only, the model for smooth parts has a row of all classes like any
    other.
    """
    assert figures(evaluation, GONE)["smooth_only"]["missing_cell_count"] == 1


def test_only_the_twenty_regions_with_most_demand_have_rows(evaluation: pd.DataFrame) -> None:
    """Of 22 regions the two with least demand are left out."""
    rows = evaluation[(evaluation["yyyymm"] == REGIONS) & (evaluation["segment_kind"] == "region")]
    assert set(rows["segment"]) == {f"R{i:02}" for i in range(2, 22)}


def test_figures_are_bit_identical_however_the_rows_are_partitioned(
    result: DataFrame, seconds: DataFrame, evaluation: pd.DataFrame
) -> None:
    """Sums of doubles of very different size, from seven partitions and from one."""
    keys = ["yyyymm", "model", "segment_kind", "segment", "horizon"]
    again = model_evaluation(
        result.orderBy("forecast_qty").coalesce(1), seconds, CLASSES, SETTINGS
    ).toPandas()
    assert_frame_equal(
        *(frame.sort_values(keys, ignore_index=True) for frame in (evaluation, again)),
        check_exact=True,
    )


def test_part_losses_add_up_to_the_wql_of_the_evaluation(
    evaluation: pd.DataFrame, losses: pd.DataFrame
) -> None:
    """One row per part and model, split by thirds of the horizon and by ABC class."""
    rows = losses[losses["yyyymm"] == SEGMENTS].set_index("part_number")
    assert rows["loss_qty"].sum() / rows["actual_qty"].sum() == pytest.approx(
        figures(evaluation, SEGMENTS)["naive"]["wql"]
    )
    assert list(
        rows.loc["P1", ["cell_count_short", "cell_count_mid", "cell_count_long", "cell_count_A"]]
    ) == [1, 0, 1, 2]
    assert rows.loc["P1", "loss_qty_long"] == pytest.approx(4.0)
    assert (rows.loc["P2", "actual_qty_A"], rows.loc["P2", "bias_qty"]) == (0.0, 6.0)


def test_losses_by_month_are_those_by_part(losses: pd.DataFrame, by_month: pd.DataFrame) -> None:
    """Both are sums over the same cells, of all and of every group."""
    keys = ["yyyymm", "demand_class", "model"]
    summed = [rows.groupby(keys).sum(numeric_only=True) for rows in (losses, by_month)]
    names = [name for name in losses if name not in (*keys, "part_number")]
    pd.testing.assert_frame_equal(summed[0][names], summed[1][names])


def test_part_losses_sample_the_same_parts_for_every_model(result: DataFrame) -> None:
    """Three parts are kept, by a hash of the part."""
    gap = result.where(result["yyyymm"] == GAP)
    sampled = (
        part_losses(gap, CLASSES, horizon=6, max_parts=3)
        .toPandas()
        .groupby("model")["part_number"]
        .agg(sorted)
    )
    assert len(sampled["naive"]) == 3
    assert sampled["naive"] == sampled["ets"]


def test_monthly_totals_hold_the_first_horizon(result: DataFrame) -> None:
    """Two parts one month ahead are added, six months ahead they are not."""
    totals = [
        tuple(row) for row in monthly_totals(result.where(result["yyyymm"] == SEGMENTS)).collect()
    ]
    assert totals == [(SEGMENTS, "naive", 202308, 5.0, 10.0)]


def test_the_pit_histogram_counts_every_cell_once(result: DataFrame) -> None:
    """Ten tenths at most, and together all cells."""
    rows = pit_histogram(result.where(result["yyyymm"] == COUNTS)).collect()
    assert {r.tenth for r in rows} <= set(range(1, 11))
    assert sum(r.cell_count for r in rows) == 400


@pytest.mark.parametrize(
    ("month", "reason"),
    [(RIGGED_HALF, "lacks 10 cells"), (RIGGED_NAN, "lacks 40 cells"), (RIGGED_ZERO, "bias -1.00")],
)
def test_no_rigged_model_is_promoted(
    evaluation: pd.DataFrame,
    losses: pd.DataFrame,
    by_month: pd.DataFrame,
    month: int,
    reason: str,
) -> None:
    """Sparse demand: one that forecasts only the parts without demand, one that returns NaN, one
    that forecasts zero. Its cells are told as those of three months, since one is no evidence.
    """
    thirds = [by_month.assign(target_yyyymm=by_month["target_yyyymm"] + n) for n in range(3)]
    by_month = pd.concat(thirds, ignore_index=True)
    decision = decide(
        month,
        evaluation[evaluation["yyyymm"] == month],
        Losses(*(rows[rows["yyyymm"] == month] for rows in (losses, by_month)), horizon=6),
        origins_available=3,
        incumbents={"lumpy": None},
        contestants=[Contestant("seasonal_naive"), Contestant("zero")],
        settings=SETTINGS,
        k_min=3,
    )[0]
    assert (decision.decision, decision.champion, decision.challenger) == (
        "denied",
        "seasonal_naive",
        "zero",
    )
    assert reason in decision.reason
