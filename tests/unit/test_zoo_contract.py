"""Every model of the zoo keeps the Forecaster protocol, on the series that break models."""

import functools
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from medallion_assets.partitions import add_months
from medallion_assets.tables import DECILES, DEMAND_CLASSES
from medallion_assets.zoo import naive
from medallion_assets.zoo.calibration import COUNT_LIMIT
from medallion_assets.zoo.registry import BASELINE, ZOO, collect, enabled, model
from medallion_assets.zoo.spec import (
    FORECAST_COLUMNS,
    ExplainsItself,
    Fitted,
    Forecaster,
    Known,
    Member,
    ModelSpec,
)
from medallion_assets.zoo.stored import digest, restored, stored
from resources.settings import Settings
from tests.conftest import SOURCE
from tests.frames import at_origin, demand_frame, feature_frame, past_frame

ORIGIN, HORIZON, SEED = 202306, 4, 7
# Small only as the mean of a year, of which the part has three months.
LIMIT_QTY = int(COUNT_LIMIT) + 10
EARLIER = add_months(ORIGIN, -HORIZON)


def awkward_series() -> dict[str, list[float]]:
    """One series for each way demand can be difficult."""
    random = np.random.default_rng(3)
    season = 100 + 30 * np.sin(np.arange(40) * np.pi / 6)
    return {
        "ALL-ZERO": [0] * 30,
        "CONSTANT": [12] * 30,
        "ERRATIC": list(random.integers(1, 60, 40) ** 1.5),
        "HUGE": list(season * 1e9),
        "INTERMITTENT": list(random.poisson(0.4, 40)),
        "LUMPY": list(random.poisson(0.3, 40) * random.integers(1, 90, 40)),
        "ONE-MONTH": [3],
        "ONE-SALE": [0] * 29 + [5],
        "SEASONAL": list(season + random.normal(0, 5, 40)),
        "STOPPED": [20] * 16 + [0] * 14,
        "THREE-MONTHS": [4, 0, 7],
        "TINY": list(season[:30] * 1e-6),
        "YOUNG": [LIMIT_QTY, LIMIT_QTY + 9, LIMIT_QTY - 3],
        **{f"PART-{number}": list(random.poisson(2 + number, 36)) for number in range(6)},
    }


SERIES = awkward_series()
DEMAND = demand_frame(SERIES, ORIGIN)
FEATURES = feature_frame(DEMAND)
NOTHING_PAST = pd.DataFrame()
EARLIER_DEMAND, EARLIER_FEATURES = (
    frame[frame["yyyymm"] <= EARLIER].reset_index(drop=True) for frame in (DEMAND, FEATURES)
)
# Features that may be unknown: no price, no customers, no spread.
ALWAYS_KNOWN = {
    "part_number",
    "yyyymm",
    "demand_class",
    "abc_class",
    "region",
    "is_active",
    "history_months",
    "month_of_year",
}
BARE_FEATURES = FEATURES.assign(
    **{column: np.nan for column in FEATURES if column not in ALWAYS_KNOWN}
)
NEARLY_EMPTY = {
    "one month": {"A": [5]},
    "three months": {"A": [0, 2, 1]},
    "all zero": {"A": [0] * 20, "B": [0] * 9},
    "constant": {"A": [7] * 26},
    "one sparse part": {"A": [1, 0, 0, 2, 0, 1, 0, 0, 0, 3, 0, 0, 1, 0]},
}
NEARLY_EMPTY_DEMAND = {name: demand_frame(series, ORIGIN) for name, series in NEARLY_EMPTY.items()}
NEARLY_EMPTY_FEATURES = {
    name: feature_frame(demand) for name, demand in NEARLY_EMPTY_DEMAND.items()
}

Pasts = Mapping[str, pd.DataFrame]


def forecast(
    spec: ModelSpec,
    demand: pd.DataFrame,
    features: pd.DataFrame,
    pasts: Pasts,
    origin: int = ORIGIN,
) -> pd.DataFrame:
    """What the model says at an origin."""
    forecaster, fitted = fit(spec, demand, features, pasts, origin)
    return forecaster.predict(fitted, demand, at_origin(features, origin), origin, HORIZON)


def fit(
    spec: ModelSpec,
    demand: pd.DataFrame,
    features: pd.DataFrame,
    pasts: Pasts,
    origin: int = ORIGIN,
) -> tuple[Forecaster, Fitted]:
    """The Forecaster and what it learned, its members handed over as the runner does. ``pasts``:
    by model what is past; a model that is not named has none.
    """
    known = Known(
        demand=demand,
        features=features,
        own_past=pasts.get(spec.name, NOTHING_PAST),
        members={
            name: Member(
                *fitted_member(name, demand, features, pasts, origin),
                pasts.get(name, NOTHING_PAST),
            )
            for name in spec.members
        },
        origin=origin,
        horizon=HORIZON,
        seed=SEED,
    )
    forecaster = spec.forecaster(quick(spec))
    return forecaster, forecaster.fit(known)


FITTED: dict[tuple[object, ...], tuple[Any, ...]] = {}


def fitted_member(
    name: str, demand: pd.DataFrame, features: pd.DataFrame, pasts: Pasts, origin: int
) -> tuple[Forecaster, Fitted]:
    """A member, fitted once on the same frames: what is tested is the combination."""
    key = (name, id(demand), id(features), name in pasts, origin)
    if key not in FITTED:
        # Frames that are held keep their id.
        FITTED[key] = (*fit(model(name), demand, features, pasts, origin), demand, features)
    return FITTED[key][:2]


def quick(spec: ModelSpec) -> dict[str, int]:
    """Few rounds: the contract is about shape, not accuracy."""
    return {
        name: rounds
        for name, rounds in {"rounds": 10, "distribution_rounds": 3}.items()
        if name in spec.parameters
    }


@functools.cache
def earlier_rows(name: str) -> pd.DataFrame:
    """Forecasts of a model at an earlier origin, with what was then sold."""
    rows = forecast(model(name), EARLIER_DEMAND, EARLIER_FEATURES, {}, EARLIER)
    return past_frame(rows, EARLIER, EARLIER_FEATURES, DEMAND)


@pytest.fixture(scope="module", params=[spec.name for spec in ZOO])
def spec(request: pytest.FixtureRequest) -> ModelSpec:
    """Each model of the zoo in turn."""
    return model(request.param)


@pytest.fixture(scope="module")
def pasts(spec: ModelSpec) -> Pasts:
    """Its forecasts of an earlier origin and those of its members, with what was then sold."""
    return {name: earlier_rows(name) for name in (*spec.members, spec.name)}


@pytest.fixture(scope="module")
def learned(spec: ModelSpec, pasts: Pasts) -> tuple[Forecaster, Fitted]:
    """The Forecaster and what it learned from the awkward series."""
    return fit(spec, DEMAND, FEATURES, pasts)


@pytest.fixture(scope="module")
def forecasts(learned) -> pd.DataFrame:
    """Its forecasts of the awkward series."""
    forecaster, fitted = learned
    return forecaster.predict(fitted, DEMAND, at_origin(FEATURES, ORIGIN), ORIGIN, HORIZON)


def assert_keeps_protocol(forecasts: pd.DataFrame, parts: list[str]) -> None:
    assert tuple(forecasts.columns) == FORECAST_COLUMNS
    cells = (
        forecasts[["part_number", "horizon"]]
        .sort_values(["part_number", "horizon"])
        .to_numpy()
        .tolist()
    )
    assert cells == [[part, horizon] for part in sorted(parts) for horizon in range(1, HORIZON + 1)]
    numbers = forecasts[["forecast_qty", *DECILES]].to_numpy(dtype=float)
    assert np.isfinite(numbers).all()
    assert (numbers >= 0).all()
    assert (np.diff(forecasts[list(DECILES)].to_numpy(dtype=float), axis=1) >= 0).all()
    assert forecasts["is_fallback"].dtype == bool


def test_one_row_per_part_and_horizon_with_sane_numbers(forecasts: pd.DataFrame) -> None:
    """Every awkward series has finite forecasts, not negative, with deciles in order."""
    assert_keeps_protocol(forecasts, list(SERIES))


def test_forecasts_stay_in_the_range_of_the_series(forecasts: pd.DataFrame) -> None:
    """A part's forecast is of the size of its own demand, whatever the sizes of the others."""
    largest = forecasts["part_number"].map({part: max(values) for part, values in SERIES.items()})
    sold = forecasts["part_number"] != "ALL-ZERO"
    assert (forecasts["forecast_qty"][sold] <= 5 * largest[sold]).all()
    huge = forecasts[forecasts["part_number"] == "HUGE"]
    assert huge["forecast_qty"].min() > 1e10


def test_same_arguments_give_the_same_numbers(
    spec: ModelSpec, pasts: Pasts, forecasts: pd.DataFrame
) -> None:
    """Fitting and forecasting twice changes nothing."""
    assert_frame_equal(forecast(spec, DEMAND, FEATURES, pasts), forecasts)


def test_inputs_are_not_changed(spec: ModelSpec, pasts: Pasts) -> None:
    """Neither fit nor predict touches the frames it is given."""
    demand, features = DEMAND.copy(), FEATURES.copy()
    given = {name: rows.copy() for name, rows in pasts.items()}
    newest = at_origin(features, ORIGIN)
    untouched = newest.copy()
    forecaster, fitted = fit(spec, demand, features, given)
    forecaster.predict(fitted, demand, newest, ORIGIN, HORIZON)
    for changed, original in (
        (demand, DEMAND),
        (features, FEATURES),
        *((given[name], pasts[name]) for name in pasts),
        (newest, untouched),
    ):
        assert_frame_equal(changed, original)


def test_what_was_learned_survives_pickling(learned, forecasts: pd.DataFrame) -> None:
    """A Fitted read back from the registry forecasts the same numbers."""
    forecaster, fitted = learned
    restored = pickle.loads(pickle.dumps(fitted))
    assert_frame_equal(
        forecaster.predict(restored, DEMAND, at_origin(FEATURES, ORIGIN), ORIGIN, HORIZON),
        forecasts,
    )


def test_what_was_learned_survives_as_data(learned, forecasts: pd.DataFrame) -> None:
    """Forecaster and fit read back from JSON, Parquet and XGBoost's own format forecast the very
    same numbers, and storing them again gives the same files.
    """
    files = stored(learned)
    forecaster, fitted = restored(files)
    assert_frame_equal(
        forecaster.predict(fitted, DEMAND, at_origin(FEATURES, ORIGIN), ORIGIN, HORIZON),
        forecasts,
        check_exact=True,
    )
    assert digest(stored((forecaster, fitted))) == digest(files)


@pytest.mark.parametrize(
    "bucket",
    [sorted(SERIES)[1::3], ["ONE-MONTH", "THREE-MONTHS", "YOUNG"], ["YOUNG"]],
    ids=["some", "young", "one"],
)
def test_a_bucket_of_parts_gets_the_rows_of_the_whole(
    learned, forecasts: pd.DataFrame, bucket: list[str]
) -> None:
    """Forecasting some of the parts, with only their demand, gives the same rows as forecasting
    all, also where none of them is a year old.
    """
    forecaster, fitted = learned
    newest = at_origin(FEATURES, ORIGIN)
    rows = forecaster.predict(
        fitted,
        DEMAND[DEMAND["part_number"].isin(bucket)].reset_index(drop=True),
        newest[newest["part_number"].isin(bucket)].sample(frac=1, random_state=1),
        ORIGIN,
        HORIZON,
    )
    whole = forecasts[forecasts["part_number"].isin(bucket)].reset_index(drop=True)
    assert_frame_equal(rows.sort_values(["part_number", "horizon"], ignore_index=True), whole)


@pytest.mark.parametrize("case", NEARLY_EMPTY)
def test_a_nearly_empty_lakehouse_is_forecast(spec: ModelSpec, case: str) -> None:
    """With next to no parts, months or demand, and nothing past, a model still answers."""
    forecasts = forecast(spec, NEARLY_EMPTY_DEMAND[case], NEARLY_EMPTY_FEATURES[case], {})
    assert_keeps_protocol(forecasts, list(NEARLY_EMPTY[case]))


def test_missing_features_are_borne(spec: ModelSpec) -> None:
    """Features that are not known (no price, no customers, no spread) stop no model."""
    assert_keeps_protocol(forecast(spec, DEMAND, BARE_FEATURES, {}), list(SERIES))


def test_later_months_change_no_forecast(spec: ModelSpec) -> None:
    """A forecast at an earlier origin is the same whether or not later months lie in the frames of
    predict.
    """
    forecaster, fitted = fit(spec, EARLIER_DEMAND, EARLIER_FEATURES, {}, EARLIER)
    newest = at_origin(EARLIER_FEATURES, EARLIER)
    assert_frame_equal(
        forecaster.predict(fitted, DEMAND, newest, EARLIER, HORIZON),
        forecaster.predict(fitted, EARLIER_DEMAND, newest, EARLIER, HORIZON),
    )


def test_every_model_says_what_it_is(spec: ModelSpec) -> None:
    """Names, classes and descriptions are fit for tables and the UI, and unknown parameters are
    refused.
    """
    assert spec.name.isidentifier()
    assert spec.description
    assert set(spec.classes) <= set(DEMAND_CLASSES)
    with pytest.raises(ValueError, match="no_such_parameter"):
        spec.forecaster({"no_such_parameter": 1})


def test_feature_importance_names_what_the_model_read(learned) -> None:
    """A model that explains itself gives shares that sum to one, of features it was given."""
    forecaster, fitted = learned
    if not isinstance(forecaster, ExplainsItself):
        pytest.skip("the model reads no features")
    importance = forecaster.feature_importance(fitted)
    assert list(importance.columns) == ["feature", "importance"]
    assert importance["importance"].sum() == pytest.approx(1)
    assert (importance["importance"] >= 0).all()


def test_feature_groups_can_be_switched_off(spec: ModelSpec) -> None:
    """A group that is off reaches no learner: changing its columns changes no forecast."""
    if "use_price" not in spec.parameters:
        pytest.skip("the model reads no feature groups")
    forecaster = spec.forecaster({**quick(spec), "use_price": False})
    changed = FEATURES.assign(
        unit_price=np.arange(len(FEATURES), dtype=float), price_ratio_12=3.0, revenue_12=1.0
    )
    rows = []
    for features in (FEATURES, changed):
        known = Known(demand=DEMAND, features=features, origin=ORIGIN, horizon=HORIZON, seed=SEED)
        fitted = forecaster.fit(known)
        rows.append(
            forecaster.predict(fitted, DEMAND, at_origin(features, ORIGIN), ORIGIN, HORIZON)
        )
    assert_frame_equal(*rows)


def python_of(document: str, heading: str) -> str:
    """The first Python example below a heading of a document."""
    text = (Path(__file__).parents[2] / document).read_text(encoding="utf-8")
    return text.split(f"\n{heading}\n")[1].split("```python\n")[1].split("```")[0]


def test_the_example_of_a_model_is_complete() -> None:
    """What CONTRIBUTING shows, put into its family's module as it stands, keeps the protocol on the
    awkward series; README shows the same class.
    """
    example = python_of("CONTRIBUTING.md", "### A model")
    assert python_of("README.md", "## Your own model") in example
    module = dict(vars(naive))
    exec(example.replace("    ...,\n", ""), module)
    (spec,) = module["MODELS"]
    forecasts = forecast(spec, DEMAND, FEATURES, {})
    assert_keeps_protocol(forecasts, list(SERIES))
    constant = forecasts[forecasts["part_number"] == "CONSTANT"]
    assert constant["forecast_qty"].unique().tolist() == [12.0]


def configured(models: tuple[str, ...] | None) -> Settings:
    return Settings(
        lakehouse_root="nowhere", first_month=202101, sources=(SOURCE,), zoo={"models": models}
    )


def test_the_baseline_always_runs() -> None:
    """Naming one model runs it, what it needs and seasonal_naive; naming none runs the whole
    zoo.
    """
    assert enabled(configured(None)) == ZOO
    assert [spec.name for spec in enabled(configured(("tsb",)))] == [BASELINE, "tsb"]


def test_an_unknown_model_is_refused_with_a_suggestion() -> None:
    """A misspelt name says which model was probably meant."""
    with pytest.raises(ValueError, match="did you mean imapa"):
        enabled(configured(("impaa",)))


def test_two_models_of_one_name_are_refused() -> None:
    """The name is the key of the stored forecasts, so it can't be given twice."""
    twice = model(BASELINE)
    with pytest.raises(ValueError, match=BASELINE):
        collect((twice,), (twice,))
