"""Daemon of Spark's Python workers on one machine: imports what models need once, so that a new worker starts with it.

Spark ends workers that are idle for a minute; without this each new one spends seconds on the same imports.
"""

import dagster  # noqa: F401
import mlflow.pyfunc  # noqa: F401
import pandas  # noqa: F401
import pyarrow.parquet  # noqa: F401
import sklearn.ensemble  # noqa: F401
import statsforecast.models  # noqa: F401
import xgboost  # noqa: F401
from pyspark.daemon import manager

if __name__ == "__main__":
    manager()
