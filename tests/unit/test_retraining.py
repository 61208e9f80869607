"""The decision about retraining: what drift, age, cooldown and evidence that was used make of a
month.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest

from medallion_assets.partitions import month_range
from medallion_assets.watch.retraining import DRIFT_COLUMNS, Decision, decide, last_decision
from resources.settings import Settings

COLUMNS = {
    "order_id": "o",
    "part_number": "p",
    "order_date": "d",
    "quantity": "q",
    "unit_price": "u",
}
MONTH = 202406
OLD = {"smooth": 202403, "lumpy": 202404}


def settings(**monitoring: Any) -> Settings:
    source = {"name": "orders", "files": "*.csv", "columns": COLUMNS}
    return Settings(
        lakehouse_root="lakehouse",
        first_month=202101,
        sources=(source,),
        monitoring={"drift_cooldown_months": 1} | monitoring,
    )


def measured(*drifted: int, first: int = 202401, last: int = MONTH) -> pd.DataFrame:
    """Two figures a month, of which the first drifted in the months named."""
    rows = [
        (
            m,
            "total_demand_qty",
            6.1 if m in drifted else 0.3,
            0.02 if m in drifted else 0.9,
            m in drifted,
        )
        for m in month_range(first, last)
    ]
    rows += [(m, "region_mix", 0.5, 0.8, False) for m in month_range(first, last)]
    return pd.DataFrame(rows, columns=list(DRIFT_COLUMNS))


def stored(*decisions: tuple[int, str, str]) -> pd.DataFrame:
    """Rows of gold.retraining_decision: month, decision, evidence."""
    rows = [(n, *row) for n, row in enumerate(decisions, 1)]
    return pd.DataFrame(rows, columns=["decision_number", "yyyymm", "decision", "evidence_months"])


def decided(
    drifted: Sequence[int],
    former: pd.DataFrame | None = None,
    trained: dict[str, int] | None = None,
    **monitoring: Any,
) -> Decision:
    return decide(
        MONTH,
        OLD if trained is None else trained,
        measured(*drifted),
        stored() if former is None else former,
        settings(**monitoring),
    )


def test_a_calm_month_asks_for_nothing() -> None:
    """Without drift in the month nothing is done, whatever the months before were."""
    assert decided([]) == Decision(
        MONTH,
        "nothing",
        None,
        "no drift in 202406; newest complete month 202406, oldest champion trained in 202403: lag 3"
        " months, limit 3",
        (),
        3,
    )
    calm = decided([202404, 202405])
    assert (calm.decision, "2 of the 2 months before drifted" in calm.reason) == ("nothing", True)


def test_one_month_of_drift_is_watched() -> None:
    """A single month, which a tenth of calm months are too, trains nobody, and the reason says what
    is missing.
    """
    watched = decided([MONTH])
    assert (watched.decision, watched.cause, watched.evidence_months) == ("watch", None, (MONTH,))
    assert (
        watched.reason
        == "202406: total_demand_qty z +6.1 (p 0.02); drift in 1 of the last 3 months, 2 are needed"
    )


@pytest.mark.parametrize(
    ("drifted", "decision"),
    [([202405, 202406], "retrain"), ([202403, 202406], "watch"), ([202404, 202405], "nothing")],
)
def test_drift_in_two_of_three_months_retrains(drifted: list[int], decision: str) -> None:
    """Two of the last three, the newest among them."""
    assert decided(drifted, trained={"all": 202403}).decision == decision


def test_the_votes_are_settings() -> None:
    """One of one month suffices where it is said; three of four may be asked for."""
    assert decided([MONTH], drift_months=1, drift_window_months=1).decision == "retrain"
    assert decided([202405, 202406], drift_months=3, drift_window_months=4).decision == "watch"


def test_the_cooldown_is_waited_out() -> None:
    """A champion trained within the cooldown is not trained again for drift; its newest class
    counts.
    """
    waits = decided(
        [202404, 202405, 202406],
        trained={"smooth": 202403, "lumpy": 202404},
        drift_cooldown_months=2,
    )
    assert waits.decision == "watch"
    assert waits.reason.endswith(
        "a champion was trained in 202404, and drift trains none within 2 months after that"
    )
    assert decided([202405, 202406], drift_cooldown_months=1).decision == "retrain"


def test_what_a_champion_was_trained_on_is_no_evidence() -> None:
    """Drift of a month that training saw does not count again."""
    assert (
        decided([202405, 202406], trained={"all": 202405}, drift_cooldown_months=0).decision
        == "watch"
    )


def test_evidence_is_used_once() -> None:
    """Months that an earlier retraining rests on are spent, also where it was only suggested; those
    of a watch are not.
    """
    spent = decided([202405, 202406], stored((202405, "retrain", "[202404, 202405]")))
    assert spent.decision == "watch"
    assert spent.reason.endswith(
        "drift in 1 of the last 3 months, 2 are needed; 202405 led to a retraining before"
    )
    assert decided([202405, 202406], stored((202405, "watch", "[202405]"))).decision == "retrain"


def test_the_same_month_decides_the_same_again() -> None:
    """Decided upon once more a month does not count its own evidence as spent."""
    first = decided([202405, 202406])
    assert decided([202405, 202406], stored((MONTH, "retrain", "[202405, 202406]"))) == first


def test_age_retrains_without_drift() -> None:
    """A champion older than the limit is trained again, and no month's drift is spent for it."""
    made = decided([], trained={"smooth": 202402, "lumpy": 202405})
    assert (made.decision, made.cause, made.evidence_months, made.training_lag_months) == (
        "retrain",
        "training_lag",
        (),
        4,
    )
    assert (
        made.reason
        == "newest complete month 202406, oldest champion trained in 202402: lag 4 months, limit 3"
    )


def test_the_first_training_waits_for_evidence() -> None:
    """Without a champion drift is watched until enough origins are there; then the first training
    is due.
    """
    assert decided([], trained={}).cause == "first_training"
    young = decide(202206, {}, measured(202206, first=202204, last=202206), stored(), settings())
    assert (young.decision, young.training_lag_months) == ("watch", None)
    assert (
        "no champion yet, newest complete month 202206 has 0 evidence origins, 3 are needed"
        in young.reason
    )


def test_a_month_that_was_not_measured_decides_nothing() -> None:
    """Verdicts of older months alone are no reason."""
    made = decide(MONTH, OLD, measured(202404, 202405, last=202405), stored(), settings())
    assert (made.decision, made.reason.startswith("drift of 202406 is not computed yet")) == (
        "nothing",
        True,
    )


def test_the_most_unlikely_figures_are_named() -> None:
    """Of many figures that drifted the reason names three."""
    rows = [(MONTH, f"figure_{n}", float(n), 0.1 - n / 100, True) for n in range(5)]
    made = decide(MONTH, OLD, pd.DataFrame(rows, columns=list(DRIFT_COLUMNS)), stored(), settings())
    assert made.reason.startswith(
        "202406: figure_4 z +4.0 (p 0.06), figure_3 z +3.0 (p 0.07), figure_2 z +2.0 (p 0.08) and 2"
        " more"
    )


def test_the_newest_row_counts() -> None:
    """Rows are told apart by their number, not by their order; without rows there is no
    decision.
    """
    rows = stored((202405, "watch", "[]"), (202406, "retrain", "[]")).iloc[::-1]
    assert (last_decision(rows) or {})["decision"] == "retrain"
    assert last_decision(stored()) is None
