"""What the rows of gold.champion say: who serves, since which training, by which version, and which
classes a person holds.

Pure functions of the rows. How rows come to be lies in promotion.py and stewardship.py.
"""

from __future__ import annotations

from typing import Any

import pandas as pd


def last_decisions(decisions: pd.DataFrame) -> pd.DataFrame:
    """The newest decision of each class, by demand_class."""
    return (
        decisions.sort_values("decision_number")
        .drop_duplicates("demand_class", keep="last")
        .set_index("demand_class")
    )


def next_number(decisions: pd.DataFrame) -> int:
    """The decision number that the next row gets. decisions: gold.champion."""
    return int(decisions["decision_number"].max()) + 1 if len(decisions) else 1


def held_classes(decisions: pd.DataFrame) -> dict[str, int]:
    """Classes that a person holds, with the last month in which they are only evaluated. decisions:
    gold.champion.
    """
    if decisions.empty or "held_until_yyyymm" not in decisions:
        return {}
    standing = last_decisions(decisions)["held_until_yyyymm"].dropna()
    return {str(name): int(month) for name, month in standing.items()}


def trained_months(decisions: pd.DataFrame) -> dict[str, int]:
    """Month that each demand class's champion was trained in, by its newest decision; classes that
    a person holds are left out.

    decisions: rows of gold.champion. A class whose champion needed no training counts as trained in
    the month of that decision.
    """
    # A restated row tells how a past month would be decided now; nothing is served because of it.
    standing = (
        decisions[decisions["decision"] != "restated"]
        .sort_values("decision_number")
        .drop_duplicates("demand_class", keep="last")
    )
    standing = standing[~standing["demand_class"].isin(list(held_classes(decisions)))]
    months = standing["champion_trained_yyyymm"].fillna(standing["yyyymm"]).astype(int)
    return {
        str(demand_class): int(month)
        for demand_class, month in zip(standing["demand_class"], months, strict=True)
    }


def serving_version(decisions: pd.DataFrame, month: int) -> int | None:
    """Registry version that forecasts at an origin: of the last decisions whose trained months are
    all through it; None without one.

    decisions: gold.champion. Rows of one training share their registry version.
    """
    trained: dict[str, int] = {}
    found = None
    ordered = decisions[decisions["decision"] != "restated"].sort_values("decision_number")
    for _, rows in ordered.groupby(
        (ordered["registry_version"] != ordered["registry_version"].shift()).cumsum(), sort=True
    ):
        trained |= {
            row["demand_class"]: int(row["champion_trained_yyyymm"])
            for row in rows.to_dict("records")
        }
        if max(trained.values()) <= month:
            found = int(rows["registry_version"].iloc[-1])
    return found


def champions_of(decisions: pd.DataFrame, version: int) -> dict[str, str]:
    """The champion of each class while a registry version served. decisions: gold.champion."""
    ordered = decisions[decisions["decision"] != "restated"].sort_values("decision_number")
    last = ordered.loc[ordered["registry_version"] == version, "decision_number"].max()
    champions = last_decisions(ordered[ordered["decision_number"] <= last])["champion"]
    return {str(name): str(champion) for name, champion in champions.items()}


def plain(value: Any) -> Any:
    """A cell of a stored row as a plain value; whole numbers that may be missing come as floats."""
    if pd.isna(value):
        return None
    value = value.item() if hasattr(value, "item") else value
    return int(value) if isinstance(value, float) and value.is_integer() else value
