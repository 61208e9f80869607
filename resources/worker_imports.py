"""What models need, imported once for all worker processes: a new one starts with it instead of
spending seconds on it.
"""

import dagster  # noqa: F401
import pandas as pd  # noqa: F401
import pyarrow.parquet  # noqa: F401
import sklearn.ensemble  # noqa: F401
import statsforecast.models  # noqa: F401
import xgboost  # noqa: F401
