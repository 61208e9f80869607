"""The replay's pure parts: which version serves each origin under each policy, and which fits its
trainings need.
"""

import pandas as pd
import pytest

from medallion_assets.bench.replay import fitted_origins, served_by_policy
from medallion_assets.partitions import month_range
from medallion_assets.watch.retraining import DRIFT_COLUMNS
from resources.settings import MonitoringSettings, Settings

ORIGINS = month_range(202401, 202407)


def drift(*months: int) -> pd.DataFrame:
    """One figure a month, which drifted in the months named."""
    return pd.DataFrame(
        [(m, "order_count", 5.0, 0.01, m in months) for m in month_range(202310, 202407)],
        columns=list(DRIFT_COLUMNS),
    )


@pytest.mark.parametrize(
    ("policy", "trained"),
    [
        ("never", [202401] * 7),
        ("always", ORIGINS),
        ("every 3 months", [202401] * 3 + [202404] * 3 + [202407]),
        ("default", [202401] * 4 + [202405] * 3),
    ],
)
def test_each_origin_is_served_by_what_its_policy_had_trained(
    settings: Settings, policy: str, trained: list[int]
) -> None:
    """The default trains for age after the allowed lag, and nobody knows a later training."""
    assert list(served_by_policy(ORIGINS, [3], drift(), settings)[policy].items()) == list(
        zip(ORIGINS, trained, strict=True)
    )


def test_the_default_trains_for_drift(settings: Settings) -> None:
    """Two months of drift train in the second of them; drift that comes later says nothing about
    it.
    """
    patient = settings.model_copy(
        update={"monitoring": MonitoringSettings(max_training_lag_months=12)}
    )
    served = served_by_policy(ORIGINS, [], drift(202403, 202404, 202407), patient)["default"]
    assert list(served.values()) == [202401] * 3 + [202404] * 4


def test_a_fit_that_two_trainings_need_counts_once(settings: Settings) -> None:
    """A training fits its evidence origins and its own month; what an earlier one fitted is
    there.
    """
    short = settings.model_copy(
        update={"forecast": settings.forecast.model_copy(update={"horizon": 1, "origins": 2})}
    )
    assert fitted_origins([202401], short) == [202311, 202312, 202401]
    assert fitted_origins([202401, 202402], short) == [202311, 202312, 202401, 202402]
