# Databricks notebook source
# MAGIC %md
# MAGIC # 1. Tables and accounting
# MAGIC
# MAGIC Raw order lines become a monthly demand by part. This notebook shows which tables that
# MAGIC takes, why they are cut as they are, and that no line is lost on the way. It only reads.
# MAGIC
# MAGIC | notebook | shows |
# MAGIC | --- | --- |
# MAGIC | **1** | **tables, partitions, the account of every line** |
# MAGIC | 2 | features and what keeps them honest |
# MAGIC | 3 | models, evaluation, MLflow |
# MAGIC | 4 | promotion, registry, rollback |
# MAGIC | 5 | monitoring and retraining |
# MAGIC | 6 | operations: a destructive act from plan to undo |
# MAGIC
# MAGIC The widget `config` names the configuration. Empty, it is the simulated wholesaler.

# COMMAND ----------

from medallion_assets import plots
from medallion_assets.operations import documents
from medallion_assets.operations.notebook import Workbench, show
from medallion_assets.partitions import month_range
from medallion_assets.tables import (
    BRONZE_SALES_ORDERS,
    DATA_QUALITY,
    DELIVERIES,
    MONTHLY_DEMAND,
    REJECTED_LINES,
    SILVER_SALES_ORDERS,
)
from resources.lakehouse import LEDGER

bench = Workbench.open()
lakehouse, settings = bench.lakehouse, bench.settings
months = month_range(settings.first_month, bench.origin)
print(f"Newest forecast made at the end of {bench.origin}; engine {settings.engine}")

# COMMAND ----------

# MAGIC %md
# MAGIC ## The design
# MAGIC
# MAGIC Three layers. **Bronze** holds lines as delivered, as text. **Silver** holds what they
# MAGIC mean: accepted and rejected lines, monthly demand, features. **Gold** holds forecasts,
# MAGIC evidence, decisions and monitoring.
# MAGIC
# MAGIC Each table is one `TableSpec`. Its DDL, its column comments, its blocking check and this
# MAGIC list are made from it.
# MAGIC
# MAGIC - The month `yyyymm` is the only partition axis. It is a physical partition where that
# MAGIC   gains something: writers of different months never touch each other's files.
# MAGIC - `merge` makes the slices of its months equal to new rows and touches no other month.
# MAGIC   `append` only adds: decisions, published forecasts, deliveries.

# COMMAND ----------

design = documents.table_design()
columns = ["table", "grain", "key", "partitions", "written", "columns", "rules"]
show(design[columns], rows=len(design))

# COMMAND ----------

# MAGIC %md
# MAGIC One table in full: the demand that all models learn from.

# COMMAND ----------

show(documents.column_design(MONTHLY_DEMAND))

# COMMAND ----------

# MAGIC %md
# MAGIC Rules are SQL over the columns. A row that breaks one fails the table's check, and nothing
# MAGIC downstream in that run starts.

# COMMAND ----------

show(documents.rules(), rows=30)

# COMMAND ----------

# MAGIC %md
# MAGIC ## Deliveries
# MAGIC
# MAGIC A file is known by the hash of its content. Delivered twice, under whatever name, it is
# MAGIC registered once. The newest deliveries:

# COMMAND ----------

deliveries = lakehouse.rows(DELIVERIES).sort_values("sequence", ascending=False)
shown = ["sequence", "source", "file_name", "line_count", "unreadable_line_count", "status"]
show(deliveries[shown], rows=8)

# COMMAND ----------

# MAGIC %md
# MAGIC ## The account
# MAGIC
# MAGIC `read = accepted + rejected + duplicate + superseded`, delivery by delivery. What does not
# MAGIC add up is `lines_unaccounted`, and its limit is 0. Month 0 holds lines without a readable
# MAGIC date: they are counted, too.

# COMMAND ----------

quality = lakehouse.totals(DATA_QUALITY, ["rule"], ["value"], [0, *months])
show(quality[quality["rule"].str.startswith("lines_")])

# COMMAND ----------

# MAGIC %md
# MAGIC Why lines were rejected. A line may break several rules, so these may add up to more than
# MAGIC `lines_rejected`.

# COMMAND ----------

rejected = quality[quality["rule"].str.startswith("rejected:")]
show(rejected.sort_values("value", ascending=False))

# COMMAND ----------

# MAGIC %md
# MAGIC Rejected lines keep their text, their reasons and the line of the file they stood in:

# COMMAND ----------

lines = lakehouse.rows(REJECTED_LINES, months=months[-6:])
shown = ["yyyymm", "disposition", "reasons", "order_id", "part_number", "quantity", "unit_price"]
show(lines.sort_values(["yyyymm", "line_id"])[[*shown, "line_number"]], rows=8)

# COMMAND ----------

# MAGIC %md
# MAGIC ## Accepted lines, read by the engine
# MAGIC
# MAGIC `lakehouse.read` gives a Spark frame. The same code runs on the embedded engine, on Apache
# MAGIC Spark and on a cluster: it keeps to the DataFrame API.

# COMMAND ----------

accepted = lakehouse.read(SILVER_SALES_ORDERS, [bench.origin])
columns = ["order_id", "part_number", "region", "order_date", "quantity", "unit_price", "line_type"]
show(accepted.orderBy("line_id").select(*columns), rows=6)

# COMMAND ----------

# MAGIC %md
# MAGIC ## Demand
# MAGIC
# MAGIC One row per part and month, zeros included, from the part's first sale or announcement. A
# MAGIC month counts once it is *complete*; months that are not are stored, and no feature, model
# MAGIC or test reads them.

# COMMAND ----------

demand = lakehouse.totals(MONTHLY_DEMAND, ["yyyymm", "is_complete"], ["demand_qty"], months)
show(plots.demand_history(demand, settings.is_simulated))

# COMMAND ----------

# MAGIC %md
# MAGIC ## The ledger
# MAGIC
# MAGIC A *slice* is one month of a table. The ledger notes what each slice was made from:
# MAGIC
# MAGIC - `data_version` hashes the slice's rows, in any order;
# MAGIC - `input_version` hashes the data versions of everything it was made from, its code
# MAGIC   version and its settings.
# MAGIC
# MAGIC A run compares input versions. Equal: the month is neither read nor written, so a second
# MAGIC run finds nothing to do. A late line changes one month of bronze, and exactly the slices
# MAGIC that depend on that month follow.

# COMMAND ----------

ledger = lakehouse.rows(LEDGER)
of_demand = ledger[ledger["table_id"] == MONTHLY_DEMAND.id].sort_values("yyyymm")
shown = ["table_id", "yyyymm", "row_count", "delta_version", "engine"]
hashes = ["data_version", "input_version"]
show(of_demand[[*shown, *hashes]].tail(5))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Versions
# MAGIC
# MAGIC Every write is one Delta commit. A version stays readable for
# MAGIC `retention.reproducible_months`, so that a model's run can be made again from what it
# MAGIC pinned (notebook 3), and a mistake can be taken back (notebook 6).

# COMMAND ----------

for table in (BRONZE_SALES_ORDERS, SILVER_SALES_ORDERS, MONTHLY_DEMAND):
    print(f"{lakehouse.name(table)}: version {lakehouse.version(table)}")
print(f"readable for {settings.retention.reproducible_months} months")
