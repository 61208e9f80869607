"""The file by which MLflow loads a registered model: it is copied into the model, beside the code
and the fits that it reads there.

Nothing else imports it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel  # type: ignore[attr-defined]


class StoredForecaster(PythonModel):
    """The manifest that lies in the model's own fits, read when MLflow loads it."""

    def load_context(self, context: Any) -> None:
        """Read the fits. Raises FitsChanged where they are not those that were logged."""
        # Only here, since MLflow runs this file before the code beside it can be imported too.
        from medallion_assets.zoo.manifest import model_of

        folder = Path(context.artifacts["fits"])
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        self.manifest = model_of(files, context.model_config["fits_sha256"])

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Forecasts of every active part, or one row for each row; see the code's serving.py."""
        return self.manifest.predict(context, model_input, params)


set_model(StoredForecaster())
