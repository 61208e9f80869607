"""Scikit-learn's gradient-boosted trees as plain columns, and their answer by numpy alone.

They are what a stored fit holds of such a learner. How trees are grown lies in boosting.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medallion_assets.zoo.series import Floats

# name of a node's column: field of scikit-learn's nodes
NODE_FIELDS = {
    "value": "value",
    "feature": "feature_idx",
    "threshold": "num_threshold",
    "is_missing_left": "missing_go_to_left",
    "left": "left",
    "right": "right",
    "is_leaf": "is_leaf",
}
LINKS = {"IdentityLink": "identity", "LogLink": "log"}


@dataclass(frozen=True)
class GradientTrees:
    """Trees whose leaves are summed upon ``baseline``; with the link "log" the sum is a logarithm.

    nodes: tree, and the keys of NODE_FIELDS; ``left`` and ``right`` count nodes within a tree.
    """

    nodes: pd.DataFrame
    baseline: float
    link: str

    def predict(self, rows: Floats) -> Floats:
        """The target of each row of inputs [row, column]; the digits are scikit-learn's own."""
        total = np.full(len(rows), self.baseline)
        for _, tree in self.nodes.groupby("tree", sort=True):
            total += _leaf_values({name: tree[name].to_numpy() for name in NODE_FIELDS}, rows)
        return np.exp(total) if self.link == "log" else total


def gradient_trees(learner: Any) -> GradientTrees:
    """A fitted HistGradientBoostingRegressor as plain trees. Raises ValueError where it splits by
    categories, which these do not know.
    """
    trees = [tree.nodes for trees in learner._predictors for tree in trees]
    if any(nodes["is_categorical"].any() for nodes in trees):
        raise ValueError("trees that split by categories can't be stored")
    together = np.concatenate(trees)
    columns: dict[str, Any] = {name: together[field] for name, field in NODE_FIELDS.items()}
    number = np.repeat(np.arange(len(trees)), [len(nodes) for nodes in trees])
    return GradientTrees(
        pd.DataFrame({"tree": number, **columns}),
        float(np.ravel(learner._baseline_prediction)[0]),
        LINKS[type(learner._loss.link).__name__],
    )


def _leaf_values(tree: dict[str, Any], rows: Floats) -> Floats:
    """Value of the leaf that each row comes to."""
    at = np.zeros(len(rows), dtype=np.int64)
    under_way = np.arange(len(rows))
    while len(under_way := under_way[tree["is_leaf"][at[under_way]] == 0]):
        node = at[under_way]
        value = rows[under_way, tree["feature"][node]]
        goes_left = np.where(
            np.isnan(value), tree["is_missing_left"][node] == 1, value <= tree["threshold"][node]
        )
        at[under_way] = np.where(goes_left, tree["left"][node], tree["right"][node])
    values: Floats = tree["value"][at]
    return values
