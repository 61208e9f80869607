"""A registered model of quick fits, the history that it forecasts, and processes that have nothing
of this project.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medallion_assets.zoo.registry import model
from medallion_assets.zoo.serving import HISTORY_COLUMNS, DemandForecaster, ServedModel, split
from medallion_assets.zoo.spec import Known
from tests.faults.scenario import answers, free_port, wait_until
from tests.frames import at_origin, demand_frame, feature_frame

ORIGIN, HORIZON = 202306, 3
# One model of each family, so that every kind of stored fit is there.
SERVING = {
    "smooth": "sklearn_hist_gradient",
    "erratic": "xgboost_global",
    "intermittent": "imapa",
    "lumpy": "theta",
    "new": "seasonal_naive",
}
ABSENT = '''
import sys

# what only the project needs, and what MLflow itself takes along where it is installed
OTHERS = {"dagster", "pyspark", "sklearn"}


class Absent:
    """Finds none of this project's packages, nor what only they need."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"medallion_assets", "resources", *OTHERS}:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Absent())
'''


def demand() -> pd.DataFrame:
    """Demand of parts of every class through ORIGIN."""
    random = np.random.default_rng(5)
    series: dict[str, list[float]] = {}
    for number in range(4):
        series[f"SMOOTH-{number}"] = list(100 + 9 * number + random.normal(0, 9, 36))
        series[f"ERRATIC-{number}"] = list(random.integers(1, 40, 36) ** 1.6)
        series[f"INTERMITTENT-{number}"] = [5.0 * (random.random() < 0.4) for _ in range(36)]
        series[f"LUMPY-{number}"] = list(random.poisson(0.4, 36) * random.integers(1, 60, 36) * 1.0)
    return demand_frame(series | {"NEW-1": [3.0, 4.0], "NEW-2": [9.0]}, ORIGIN)


def history(sold: pd.DataFrame) -> pd.DataFrame:
    """HISTORY_COLUMNS through ORIGIN of demand, as a user joins them."""
    features = at_origin(feature_frame(sold), ORIGIN)
    joined = sold.merge(features, on=["part_number", "yyyymm"], how="left")
    return joined[list(HISTORY_COLUMNS)]


def as_rows(known: pd.DataFrame) -> pd.DataFrame:
    """A history as ROW_COLUMNS: each part once for each horizon."""
    months = known.groupby("part_number").agg(
        demand_months=("yyyymm", list), demand_quantities=("demand_qty", list)
    )
    at_end = known[known["yyyymm"] == ORIGIN].drop(columns="demand_qty")
    rows = at_end.merge(months.reset_index(), on="part_number")
    return rows.merge(pd.DataFrame({"horizon": range(1, HORIZON + 1)}), how="cross")


def manifest(sold: pd.DataFrame, serving: dict[str, str] | None = None) -> DemandForecaster:
    """Quick fits of the models that serve each class."""
    features = feature_frame(sold)
    known, _ = split(history(sold), ORIGIN)
    entries = {}
    for demand_class, name in (serving or SERVING).items():
        spec = model(name)
        few = {key: 8 for key in ("rounds", "distribution_rounds") if key in spec.parameters}
        forecaster = spec.forecaster(few)
        fitted = forecaster.fit(
            Known(demand=known, features=features, origin=ORIGIN, horizon=HORIZON, seed=7)
        )
        entries[demand_class] = ServedModel(name, forecaster, fitted, ORIGIN, f"run of {name}")
    return DemandForecaster(entries, HORIZON)


def without_this_project(folder: Path, **variables: str) -> dict[str, str]:
    """Environment of processes that can import neither this project nor dagster, and that may
    unpickle nothing.
    """
    place = folder / "absent"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(ABSENT)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MEDALLION")}
    return {
        **kept,
        "PYTHONPATH": str(place),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        **variables,
    }


SCRIPT = """
import sys
import mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
model.predict(pd.read_parquet(sys.argv[3])).to_parquet(sys.argv[4])
print({name.partition(".")[0] for name in sys.modules} & {"medallion_assets", "resources"})
"""


def outside(folder: Path, uri: str, model: str, known: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """What a process without this project says and forecasts, of a history."""
    known.to_parquet(folder / "history.parquet")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, uri, model, "history.parquet", "found.parquet"],
        cwd=folder,
        env=without_this_project(folder),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip(), pd.read_parquet(folder / "found.parquet")


@contextlib.contextmanager
def served(folder: Path, uri: str, model: str) -> Iterator[str]:
    """MLflow's own scoring server of a model, without this project; ended by process id."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", model]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env=without_this_project(folder, MLFLOW_TRACKING_URI=uri),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        assert wait_until(lambda: answers(f"{address}/ping"), 180), (
            folder / "server.log"
        ).read_text()[-3000:]
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def as_json(frame: pd.DataFrame) -> dict[str, Any]:
    """A frame as MLflow's server takes it, every number with all its digits."""
    plain = json.loads(frame.to_json(orient="split", double_precision=15))
    return {"dataframe_split": {name: plain[name] for name in ("columns", "data")}}
