# Databricks notebook source
# MAGIC %md
# MAGIC # 2. Features
# MAGIC
# MAGIC `silver.demand_features` has one row per part and origin: what is known of the part at the
# MAGIC end of that month, and nothing later. This notebook shows the specification, the values of
# MAGIC one part, and the classes that come of it. It only reads.

# COMMAND ----------

from medallion_assets import plots
from medallion_assets.operations import documents
from medallion_assets.operations.notebook import Workbench, show
from medallion_assets.partitions import month_range
from medallion_assets.tables import DEMAND_FEATURES, MONTHLY_DEMAND
from medallion_assets.zoo.boosting_inputs import FEATURE_GROUPS

bench = Workbench.open()
lakehouse, settings, origin = bench.lakehouse, bench.settings, bench.origin
months = month_range(settings.first_month, origin)

# COMMAND ----------

# MAGIC %md
# MAGIC ## The specification
# MAGIC
# MAGIC The meaning of a column is part of the table, as its comment. Every window ends with the
# MAGIC origin and includes it: "last 12 months" is t-11 ... t. The oldest month read is t-35.

# COMMAND ----------

columns = documents.column_design(DEMAND_FEATURES)
show(columns[["column", "type", "meaning"]], rows=len(columns))

# COMMAND ----------

# MAGIC %md
# MAGIC Models that learn across parts read these groups. Each can be switched off under
# MAGIC `features` in the configuration, and which were on is a parameter of every MLflow run.

# COMMAND ----------

for group, names in FEATURE_GROUPS.items():
    show(f"**{group}**: {', '.join(f'`{name}`' for name in names)}")

# COMMAND ----------

# MAGIC %md
# MAGIC ## One part
# MAGIC
# MAGIC The part with most revenue. Its lags are its own demand, month by month: lag 0 is the
# MAGIC origin.

# COMMAND ----------

features = lakehouse.rows(DEMAND_FEATURES, months=[origin])
ranked = features[features["is_active"]].sort_values(["revenue_12", "part_number"], ascending=False)
part = str(ranked["part_number"].iloc[0])
lags = ["yyyymm", *FEATURE_GROUPS["lags"]]
short = {name: name.replace("demand_lag_", "lag ") for name in lags}
show(f"Features of `{part}` at the end of {origin}:")
show(ranked[lags].rename(columns=short).head(1))
show(f"Its demand in `{lakehouse.name(MONTHLY_DEMAND)}`, the newest month first:")
sold = lakehouse.rows(MONTHLY_DEMAND, ["yyyymm", "demand_qty"], months[-13:], parts=[part])
show(sold.sort_values("yyyymm", ascending=False).set_index("yyyymm").T)

# COMMAND ----------

shown = ["demand_class", "abc_class", *FEATURE_GROUPS["rolling"], *FEATURE_GROUPS["intermittency"]]
of_five = ranked.head(5).set_index("part_number")[shown]
show(of_five.T.reset_index(names="feature"), rows=len(shown))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Nothing later than the origin
# MAGIC
# MAGIC Features of an origin are made from demand through it. The same part at three origins,
# MAGIC four months apart: what was lag 0 is lag 4 and lag 8 later.
# MAGIC
# MAGIC Late lines change the demand of their month, and then every origin that saw it. A past
# MAGIC origin computed again is therefore *restated*. What was known on the day is the published
# MAGIC vintage of the forecast.

# COMMAND ----------

history = lakehouse.rows(DEMAND_FEATURES, lags, months[-9::4], parts=[part])
show(history.sort_values("yyyymm").rename(columns=short))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Demand classes
# MAGIC
# MAGIC How often a part sells (ADI) and how evenly (CV²) decide its class. Each class has a
# MAGIC champion of its own: what forecasts a smooth part well is wrong for one that sells twice a
# MAGIC year. Under six months old, a part is *new*.

# COMMAND ----------

active = features[features["is_active"]]
show(plots.demand_classes(active, settings.is_simulated))

# COMMAND ----------

# MAGIC %md
# MAGIC ABC ranks parts by revenue: A makes the first 80 %, B goes to 95 %, C is the rest. Both
# MAGIC classes are as of the origin and stay with a forecast when it is judged.

# COMMAND ----------

shown = ["part_number", "demand_class", "abc_class", "adi", "cv2", "history_months", "revenue_12"]
show(ranked[shown], rows=10)
