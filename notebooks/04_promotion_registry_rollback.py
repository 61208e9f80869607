# Databricks notebook source
# MAGIC %md
# MAGIC # 4. Promotion, registry, rollback
# MAGIC
# MAGIC Which model serves each demand class, on what evidence, decided by whom; how it is
# MAGIC registered; how a person takes it back.
# MAGIC
# MAGIC The last part changes what serves. It asks first: nothing happens until the widget
# MAGIC `rollback` holds the name of the act that was shown.

# COMMAND ----------

import mlflow

from medallion_assets import plots
from medallion_assets.operations.notebook import Workbench, ask, is_confirmed, show
from medallion_assets.partitions import month_range
from medallion_assets.served.published import current_edition, forecast_rows, total_rows
from medallion_assets.tables import CHAMPION, MONTHLY_DEMAND
from medallion_assets.zoo.reading import packed_history

bench = Workbench.open()
lakehouse, settings, origin = bench.lakehouse, bench.settings, bench.origin

# COMMAND ----------

# MAGIC %md
# MAGIC ## The decisions
# MAGIC
# MAGIC `gold.champion` is append only, and its newest row is the truth. The registry's alias
# MAGIC follows it.
# MAGIC
# MAGIC - *promoted*: the interval of the difference lies wholly below zero. Parts and months both
# MAGIC   make it uncertain.
# MAGIC - *provisional*: nobody is certain to be better, and the least expected regret serves.
# MAGIC - *refreshed*: the champion stays, with the fit of this training.
# MAGIC - *denied*: the challenger might be worse in a group that counts.
# MAGIC - *rolled_back*, *released*: a person decided, by name and with a reason.

# COMMAND ----------

decisions = lakehouse.rows(CHAMPION).sort_values("decision_number")
columns = ["decision_number", "yyyymm", "demand_class", "decision", "champion", "actor"]
figures = ["champion_wql", "baseline_wql", "difference_low", "difference_high"]
show(decisions[[*columns, *figures, "registry_version"]], rows=30)

# COMMAND ----------

# MAGIC %md
# MAGIC Each row says why, in words:

# COMMAND ----------

for row in decisions.tail(5).to_dict("records"):
    show(f"**{row['demand_class']}** ({row['decision']}): {row['reason']}")

# COMMAND ----------

show(plots.value_by_version(decisions, settings.is_simulated))

# COMMAND ----------

# MAGIC %md
# MAGIC ## The registry
# MAGIC
# MAGIC One registered model. A version is a manifest: for each class the model that serves it,
# MAGIC its fit, the month it was trained in and its run. The fits lie in the version as data,
# MAGIC without pickle, and their SHA-256 is a tag that is held against them at every load.

# COMMAND ----------

mlflow.set_tracking_uri(settings.tracking_uri)
mlflow.set_registry_uri(settings.registry_uri)
client = mlflow.MlflowClient()
version = client.get_model_version_by_alias(settings.registered_model, "champion")
print(f"{settings.registered_model}@champion is version {version.version}")
for name, value in sorted(version.tags.items()):
    print(f"  {name}: {value}")
signature = mlflow.models.get_model_info(f"models:/{settings.registered_model}@champion").signature
show(f"It gives {', '.join(f'`{name}`' for name in signature.outputs.input_names())}.")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Load it and forecast
# MAGIC
# MAGIC MLflow alone loads the champion; this package need not be installed there. It is asked for
# MAGIC the month after the newest origin, and answers what was published. Only the guard stands
# MAGIC in between: a path that a part's own history does not bear out is published as `guarded`.

# COMMAND ----------

champion = mlflow.pyfunc.load_model(f"models:/{settings.registered_model}@champion")
history = packed_history(lakehouse, settings, origin).toPandas().sort_values("part_number")
forecast = champion.predict(history.assign(horizon=1, is_active=True))
columns = ["part_number", "target_yyyymm", "forecast_qty", "q10", "q50", "q90", "model"]
show(forecast[columns], rows=5)

# COMMAND ----------

edition = current_edition(lakehouse, origin)
published = forecast_rows(lakehouse, edition, [*columns, "horizon", "status", "registry_version"])
next_month = published[published["horizon"] == 1].sort_values("part_number")
show(f"Published: origin {edition.origin}, vintage {edition.vintage}")
show(next_month[[*columns, "status", "registry_version"]], rows=5)

# COMMAND ----------

# MAGIC %md
# MAGIC The total that a planner reads. Its band is that of the sum; deciles of parts do not add
# MAGIC up.

# COMMAND ----------

totals = total_rows(lakehouse, edition)
months = month_range(settings.first_month, origin)
demand = lakehouse.totals(MONTHLY_DEMAND, ["yyyymm", "is_complete"], ["demand_qty"], months)
show(
    plots.served_forecast(
        demand[demand["is_complete"].astype(bool)],
        totals[totals["segment_kind"] == "all"],
        settings.is_simulated,
    )
)

# COMMAND ----------

# MAGIC %md
# MAGIC ## Rollback
# MAGIC
# MAGIC A person may serve a class by the fit that it had in an earlier version, and hold it
# MAGIC there: it is evaluated, and not promoted, until somebody releases it. Order of every
# MAGIC change: register a version, append the decision, move the alias, publish. Killed in
# MAGIC between, the next run mends the alias from the decision.
# MAGIC
# MAGIC The widgets say what to roll back. By default it is the class `lumpy`, to the oldest
# MAGIC version that served.

# COMMAND ----------

demand_class = ask("rollback_class", "lumpy", "Demand class")
to_version = int(ask("rollback_version", str(decisions["registry_version"].min()), "Version"))
why = ask("why", "a drill", "Reason, stored with the decision")
act = f"{demand_class} to version {to_version}"
if is_confirmed(act, "rollback"):
    with bench.session() as session:
        session.steward(
            bench.actor, lambda steward: steward.rollback([demand_class], to_version, why, None)
        )

# COMMAND ----------

# MAGIC %md
# MAGIC Released again, the class is decided by the next training on new evidence. What serves stays
# MAGIC until then.

# COMMAND ----------

if is_confirmed(f"release {demand_class}", "release"):
    with bench.session() as session:
        session.steward(bench.actor, lambda steward: steward.release([demand_class], why))

# COMMAND ----------

# MAGIC %md
# MAGIC The record afterwards. Nothing was erased: who decided what, and why, stays.

# COMMAND ----------

after = lakehouse.rows(CHAMPION).sort_values("decision_number")
columns = ["decision_number", "yyyymm", "demand_class", "decision", "champion", "registry_version"]
show(after[[*columns, "held_until_yyyymm", "reason"]].tail(3))
version = client.get_model_version_by_alias(settings.registered_model, "champion")
print(f"{settings.registered_model}@champion is version {version.version}")
