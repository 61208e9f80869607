# Databricks notebook source
# MAGIC %md
# MAGIC # 6. Operations and safety
# MAGIC
# MAGIC What removes or overwrites stored rows needs a **plan**: a row of `gold.plan` that says
# MAGIC what would happen, to how many rows and files, and what can't be undone. It is carried out
# MAGIC only by its name, and only while the table is the one that the plan was made for.
# MAGIC
# MAGIC This is a drill on `gold.demand_drift`: a restore takes it back to an old version, and undo
# MAGIC brings it forward again. The notebook asks before both, by the widgets `confirm` and
# MAGIC `undo`. With both empty, plans are made and nothing else.

# COMMAND ----------

from medallion_assets import plans
from medallion_assets.operations.notebook import Workbench, ask, is_confirmed, show
from medallion_assets.operations.runs import asset_of
from medallion_assets.plans import FORCE_TAG
from medallion_assets.tables import DEMAND_DRIFT, MONTHLY_DEMAND
from resources.errors import Refused

bench = Workbench.open()
lakehouse, settings = bench.lakehouse, bench.settings
print(bench.state_of(DEMAND_DRIFT))

# COMMAND ----------

# MAGIC %md
# MAGIC ## What is refused at once
# MAGIC
# MAGIC Stored months are made again only when their inputs changed. Forcing several of them
# MAGIC without a plan is refused: the refusal makes the plan and names it. Nothing was written.

# COMMAND ----------

stored = sorted(lakehouse.ledger.slices(MONTHLY_DEMAND))[-3:]
before = lakehouse.version(MONTHLY_DEMAND)
with bench.session() as session:
    try:
        session.materialize([asset_of(MONTHLY_DEMAND)], stored, {FORCE_TAG: "true"})
    except Refused as refusal:
        print(f"Refused: {refusal}")
print(f"{MONTHLY_DEMAND.id}: version {before} before, {lakehouse.version(MONTHLY_DEMAND)} after")

# COMMAND ----------

# MAGIC %md
# MAGIC A write that would take more than `writes.max_removed_share` of a month's rows is refused
# MAGIC in the same way: an empty or cut-off file must not empty a table.

# COMMAND ----------

print(f"writes.max_removed_share: {settings.writes.max_removed_share}")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Plan
# MAGIC
# MAGIC Make the table what it was at an earlier version. By default that is version 0, in which it
# MAGIC was made and held no rows: as bad as an accident gets. Asked twice, the same act has the
# MAGIC same name.

# COMMAND ----------

to_version = int(ask("to_version", "0", "Version to restore"))
with bench.session() as session:
    planning = session.plans(bench.actor)
    plan = planning.restore(DEMAND_DRIFT, to_version)
show(f"**{plan.plan_id}** {plan.sentence(lakehouse)}")
print(bench.state_of(DEMAND_DRIFT))

# COMMAND ----------

# MAGIC %md
# MAGIC ## Apply
# MAGIC
# MAGIC Only when the widget `confirm` holds the plan's name. The plan is refused where somebody
# MAGIC wrote to the table in between.

# COMMAND ----------

if is_confirmed(plan.plan_id):
    with bench.session() as session:
        session.apply(plan, bench.actor)
print(bench.state_of(DEMAND_DRIFT))

# COMMAND ----------

# MAGIC %md
# MAGIC Once more, the same plan says why not:

# COMMAND ----------

plan = plans.find(lakehouse, plan.plan_id)
print(f"{plan.plan_id} is {plan.state}")
if plan.state == "applied":
    with bench.session() as session:
        try:
            session.apply(plan, bench.actor)
        except Refused as refusal:
            print(f"Refused: {refusal}")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Undo
# MAGIC
# MAGIC Back to the version before the plan, in a new commit. Refused where the table moved on
# MAGIC since: undoing would undo that, too.

# COMMAND ----------

if is_confirmed(plan.plan_id, "undo"):
    with bench.session() as session:
        plan = session.plans(bench.actor).undo(plan)
    print(f"{plan.plan_id} is {plan.state}")
print(bench.state_of(DEMAND_DRIFT))

# COMMAND ----------

# MAGIC %md
# MAGIC ## What can't be undone
# MAGIC
# MAGIC Removing files that no version within the retention needs. The plan says so, and this
# MAGIC notebook does not apply it.

# COMMAND ----------

with bench.session() as session:
    removal = session.plans(bench.actor).vacuum(DEMAND_DRIFT)
show(f"**{removal.plan_id}** {removal.sentence(lakehouse)}")

# COMMAND ----------

# MAGIC %md
# MAGIC ## The record
# MAGIC
# MAGIC Who planned, applied and undid what. `medallion history plans` prints the same.

# COMMAND ----------

record = plans.listed(lakehouse)
columns = ["plan_id", "event", "table_id", "table_version", "version_after", "row_count"]
show(record[[*columns, "effect"]])

# COMMAND ----------

# MAGIC %md
# MAGIC ## When a process dies
# MAGIC
# MAGIC A slice is written in one commit, and recorded after it. A kill in between costs a repeat
# MAGIC and nothing else: no row less, none twice. The tests kill whole processes at named points
# MAGIC of every write and compare the tables with those of an undisturbed lakehouse.
# MAGIC `docs/safety.md` says what holds when a server, a disk or a table is lost.
