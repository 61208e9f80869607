"""What a global booster keeps of its training."""

from __future__ import annotations

from typing import cast

import numpy as np
import pandas as pd
import pytest

from medallion_assets.zoo.boosting import MEDIAN_LEARNERS, GlobalBooster
from medallion_assets.zoo.registry import model


def test_the_median_is_that_of_several_learners() -> None:
    """Of deviations around 2 with a long tail each learner finds about the median, and no two are
    the same.
    """
    trainer = cast("GlobalBooster", model("xgboost_global").forecaster({})).trainer
    random = np.random.default_rng(5)
    inputs = pd.DataFrame({"level": random.normal(size=2_000)})
    learners = trainer.train_medians(inputs, 2 + random.exponential(size=2_000), 7)
    found = np.array([trainer.apply(learner, inputs) for learner in learners])
    assert len(found) == MEDIAN_LEARNERS
    assert found.mean() == pytest.approx(2 + np.log(2), abs=0.1)
    assert (found[0] != found[1]).any()
