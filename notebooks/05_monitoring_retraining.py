# Databricks notebook source
# MAGIC %md
# MAGIC # 5. Monitoring and retraining
# MAGIC
# MAGIC Is the data sound, did demand change, did the forecast hold, and is it time to train
# MAGIC again? Each answer is a table, and sensors act on the tables.
# MAGIC
# MAGIC The notebook runs the monthly job for the newest month, which writes what is due and
# MAGIC nothing twice. It trains only when the widget `train` names the month.

# COMMAND ----------

from medallion_assets import plots
from medallion_assets.operations.notebook import Workbench, is_confirmed, show
from medallion_assets.partitions import month_range
from medallion_assets.report.reporting import accuracy_through, judged
from medallion_assets.served.accuracy import pooled
from medallion_assets.tables import DATA_QUALITY, DEMAND_DRIFT, RETRAINING_DECISION
from medallion_assets.watch.decision_record import RetrainingPolicy
from medallion_assets.watch.freshness import freshness_table
from medallion_assets.work import Work

bench = Workbench.open()
lakehouse, settings, origin = bench.lakehouse, bench.settings, bench.origin
months = month_range(settings.first_month, origin)

# COMMAND ----------

# MAGIC %md
# MAGIC ## The monthly job
# MAGIC
# MAGIC Orders to features, the forecast, its accuracy and report, drift, and whether to train
# MAGIC again. Months that are up to date are left as they are.

# COMMAND ----------

with bench.session() as session:
    session.execute("monthly_forecast", [origin])

# COMMAND ----------

# MAGIC %md
# MAGIC ## Data quality
# MAGIC
# MAGIC Limits are checks: `lines_unaccounted` must be 0, `rejected_share` at most
# MAGIC `monitoring.max_rejected_share`.

# COMMAND ----------

quality = lakehouse.rows(DATA_QUALITY, months=[origin])
show(quality[["yyyymm", "rule", "value", "threshold", "is_ok", "detail"]])

# COMMAND ----------

# MAGIC %md
# MAGIC ## Drift
# MAGIC
# MAGIC Each figure is compared with its own past, season taken out. With twenty figures some are
# MAGIC far off every month, so the largest is ranked among the largest of past months: the
# MAGIC correction for their number is measured on the company's own past. `p_value` is that rank.
# MAGIC A figure drifts when it lies within `false_alarm_rate`.

# COMMAND ----------

drift = lakehouse.rows(DEMAND_DRIFT, months=[origin]).sort_values("p_value")
columns = ["yyyymm", "feature", "value", "expected", "statistic", "p_value", "is_drift", "reason"]
show(drift[columns], rows=30)

# COMMAND ----------

# MAGIC %md
# MAGIC Months that drifted:

# COMMAND ----------

found = lakehouse.rows(DEMAND_DRIFT, months=months)
drifted = found[found["is_drift"].astype(bool)].sort_values(["yyyymm", "p_value"])
show(drifted[["yyyymm", "feature", "statistic", "p_value", "reason"]])

# COMMAND ----------

# MAGIC %md
# MAGIC ## Did the forecast hold?
# MAGIC
# MAGIC Judged is the vintage that was current when the month began. `value_added` compares it
# MAGIC with the same month a year before: above 0 the forecast was worth having.

# COMMAND ----------

accuracy = accuracy_through(lakehouse, origin)
totals = judged(lakehouse, accuracy, origin, "all")
show(plots.forecast_against_actual(totals, "what was served", settings.is_simulated))
show(plots.value_added(accuracy, settings.is_simulated))

# COMMAND ----------

classes = accuracy[accuracy["segment_kind"].isin(["all", "demand_class"])]
by_lag = pooled(classes, ["segment", "lag"])
show(plots.error_by_lag(by_lag, settings.is_simulated))

# COMMAND ----------

# MAGIC %md
# MAGIC ## How fresh the tables are
# MAGIC
# MAGIC Months are counted, not days: filling an old month makes nothing fresh. *Missing* is
# MAGIC complete and not made, *late* was made before it was complete or before lines that are
# MAGIC registered by now.

# COMMAND ----------

policy = RetrainingPolicy(Work(settings, lakehouse, "", print))
fresh = {lakehouse.name(table): stand for table, stand in policy.freshness().items()}
show(freshness_table(fresh))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Train again?
# MAGIC
# MAGIC One decision a month, with its reason: *nothing*, *watch* or *retrain*.
# MAGIC
# MAGIC | cause | when |
# MAGIC | --- | --- |
# MAGIC | drift | `drift_months` of the last `drift_window_months` drift, this one among them |
# MAGIC | training_lag | the oldest training that serves lags by over `max_training_lag_months` |
# MAGIC | first_training | there is no champion, and enough evidence for one |
# MAGIC
# MAGIC Drift within the cooldown after a training is watched only. A month that a champion was
# MAGIC trained on, or that an earlier retraining rested on, does not vote again.
# MAGIC
# MAGIC A rollback counts: where a class serves an older fit, as after notebook 4, that training
# MAGIC lags.

# COMMAND ----------

made = lakehouse.rows(RETRAINING_DECISION).sort_values("decision_number")
columns = ["decision_number", "yyyymm", "decision", "cause", "reason", "training_lag_months"]
show(made[[*columns, "mode"]])
names = ["drift_months", "drift_window_months", "drift_cooldown_months", "max_training_lag_months"]
for name in names:
    print(f"monitoring.{name}: {getattr(settings.monitoring, name)}")

# COMMAND ----------

# MAGIC %md
# MAGIC ## What starts a run
# MAGIC
# MAGIC Sensors read folders and small tables, and start no engine. Every run they ask for says
# MAGIC what asked for it and on what evidence. Where a workspace's own triggers start the jobs,
# MAGIC these stay off: one master only.

# COMMAND ----------

with bench.session() as session:
    for sensor in session.defs.sensors:
        show(f"**{sensor.name}**: {sensor.description}")

# COMMAND ----------

# MAGIC %md
# MAGIC ## A training by hand
# MAGIC
# MAGIC It fits the models, compares them, decides, registers and publishes. A training whose
# MAGIC inputs did not change finds all its months made, and writes nothing: the same evidence
# MAGIC decides once. A class that a person rolled back is decided again with the next month.

# COMMAND ----------

if is_confirmed(f"train {origin}", "train"):
    with bench.session() as session:
        is_changed = session.execute("retraining", [origin])
    print("something was written" if is_changed else "nothing was due, nothing was written")
