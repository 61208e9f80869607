# Databricks notebook source
# MAGIC %md
# MAGIC # 3. Models, evaluation, MLflow
# MAGIC
# MAGIC A model is an asset with one partition a month: partition m is fitted on demand through m
# MAGIC and forecasts the months after it. **So the past partitions are the backtest**, and a
# MAGIC backfill is the evaluation. There is no second code path that could see more than the one
# MAGIC that serves.
# MAGIC
# MAGIC This notebook shows the models, what they are judged on, the figures, and where MLflow
# MAGIC keeps them. It fits one model again, to show that a run can be reproduced, and stores
# MAGIC nothing.

# COMMAND ----------

import mlflow
import pandas as pd

from medallion_assets import plots
from medallion_assets.complete import evidence_of
from medallion_assets.operations.notebook import Workbench, show
from medallion_assets.operations.reproduce import reproduce
from medallion_assets.tables import MODEL_EVALUATION, ZOO_FORECAST, ZOO_RESULT
from medallion_assets.zoo.registry import BASELINE, enabled

bench = Workbench.open()
lakehouse, settings = bench.lakehouse, bench.settings
trained = max(lakehouse.ledger.slices(MODEL_EVALUATION))
print(f"Newest training: {trained}")

# COMMAND ----------

# MAGIC %md
# MAGIC ## The models
# MAGIC
# MAGIC From cheap to dear: of equivalent ones the first is taken. A model may be asked for some
# MAGIC demand classes only.

# COMMAND ----------

zoo = enabled(settings)
names = ["name", "family", "description", "classes", "parameters"]
show(pd.DataFrame([{name: getattr(spec, name) for name in names} for spec in zoo]))

# COMMAND ----------

# MAGIC %md
# MAGIC ## The evidence
# MAGIC
# MAGIC A decision in month m rests on origins for which every horizon has its actual, and on
# MAGIC younger cells that all models have. A *cell* is a part, an origin and a target month.
# MAGIC Models are compared on identical cells.

# COMMAND ----------

show(
    f"The decision of **{trained}** rests on the origins **{evidence_of(trained, settings)}**, each"
    f" forecasting {settings.forecast.horizon} months ahead."
)
cells = lakehouse.read(ZOO_RESULT, [trained]).where(f"model = '{BASELINE}'")
columns = ["model", "origin", "part_number", "horizon", "target_yyyymm"]
figures = ["forecast_qty", "q10", "q50", "q90", "actual_qty"]
show(cells.orderBy("origin", "part_number", "horizon").select(*columns, *figures), rows=6)

# COMMAND ----------

# MAGIC %md
# MAGIC ## The figures
# MAGIC
# MAGIC **WQL**, the quantile loss per unit of demand, judges the whole distribution: too narrow
# MAGIC an interval costs as much as a wrong middle. Bias and RMSE judge the expected demand,
# MAGIC coverage the interval. MAPE is stored as well, with the share of cells it is defined on.

# COMMAND ----------

evaluation = lakehouse.rows(MODEL_EVALUATION, months=[trained])
show(plots.model_comparison(evaluation, settings.is_simulated))

# COMMAND ----------

of_classes = evaluation[
    (evaluation["horizon"] == 0) & (evaluation["segment_kind"] == "demand_class")
].sort_values(["segment", "wql"])
figures = ["segment", "model", "wql", "bias", "rmse", "wape", "mase", "coverage_80", "cell_count"]
show(of_classes[figures], rows=30)

# COMMAND ----------

# MAGIC %md
# MAGIC One model by segment, beside the baseline:

# COMMAND ----------

best = str(of_classes[of_classes["segment"] == "intermittent"]["model"].iloc[0])
show(plots.error_by_segment(evaluation, best, BASELINE, settings.is_simulated))

# COMMAND ----------

# MAGIC %md
# MAGIC ## The experiment
# MAGIC
# MAGIC One experiment per lakehouse. A run for each Dagster run; nested in it one run per model
# MAGIC and origin that was fitted, and one per training: the decisions and the registered model.
# MAGIC
# MAGIC A model's run has its parameters and seed, its figures, the Delta versions that it read as
# MAGIC inputs, pictures of its evidence, and the fitted model.

# COMMAND ----------

mlflow.set_tracking_uri(settings.tracking_uri)
runs = mlflow.search_runs(
    experiment_names=[settings.mlflow.experiment],
    filter_string=f"tags.month = '{trained}' and tags.`medallion.committed` = 'true'",
)
columns = ["tags.mlflow.runName", "tags.family", "metrics.wql_smooth", "metrics.wql_intermittent"]
show(runs.sort_values("tags.mlflow.runName").reindex(columns=[*columns, "metrics.fallback_share"]))

# COMMAND ----------

# MAGIC %md
# MAGIC What one of these runs holds:

# COMMAND ----------

own = runs[runs["tags.mlflow.runName"] == f"{best} {trained}"].iloc[0]
run_id = own["run_id"]
client = mlflow.MlflowClient()
run = client.get_run(run_id)
show(pd.DataFrame(sorted(run.data.params.items()), columns=["parameter", "value"]), rows=40)
inputs = [
    {"input": entry.dataset.name, "digest": entry.dataset.digest}
    for entry in run.inputs.dataset_inputs
]
show(pd.DataFrame(inputs))
for name in ("plots/calibration.png", "plots/forecast_against_actual.png"):
    with open(client.download_artifacts(run_id, name), "rb") as picture:
        show(picture.read())

# COMMAND ----------

# MAGIC %md
# MAGIC ## Made again
# MAGIC
# MAGIC The run pinned Delta versions, parameters, seed, commit and libraries. `reproduce` fits it
# MAGIC again from these and compares every forecast. Nothing is stored. The baseline is fitted
# MAGIC here because it takes a second.

# COMMAND ----------

baseline = lakehouse.ledger.slices(ZOO_FORECAST, BASELINE)[trained].details["run_id"]
told = reproduce(settings, lakehouse, bench.tracking, baseline, print)
print(f"{told.cells:,} forecasts with their deciles, equal: {told.is_equal}")
for change in told.changed:
    print(f"changed since: {change}")
