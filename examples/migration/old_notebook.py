# Databricks notebook source
# MAGIC %md
# MAGIC # Monthly demand forecast
# MAGIC Runs on the 2nd of each month. Overwrites `forecasts/demand_forecast.csv`.

# COMMAND ----------

import glob
import os

import pandas as pd

LANDING = os.environ["LANDING"]
OUT = os.environ["OUT"]
AS_OF = os.environ.get("AS_OF")  # yyyy-MM, the last month to look at; default: all there is
HORIZON = 6
ALPHA = 0.2

# COMMAND ----------

# MAGIC %md ## 1. Load the orders

# COMMAND ----------

files = sorted(glob.glob(f"{LANDING}/*.csv"))
orders = pd.concat([pd.read_csv(path, dtype=str) for path in files])

# COMMAND ----------

# MAGIC %md ## 2. Clean

# COMMAND ----------

orders["date"] = pd.to_datetime(orders["Order Date"].str[:10], format="%d/%m/%Y", errors="coerce")
orders["qty"] = pd.to_numeric(orders["Qty"], errors="coerce")
orders = orders.dropna(subset=["date", "qty"])
orders = orders[orders["Item Code"].str.startswith("P-")]
orders = orders[~orders["Order No"].str.startswith("C")]
orders = orders.drop_duplicates()

# COMMAND ----------

# MAGIC %md ## 3. Monthly demand

# COMMAND ----------

monthly = orders.pivot_table(
    index=orders["date"].dt.to_period("M"), columns="Item Code", values="qty", aggfunc="sum"
).fillna(0)
if AS_OF:
    monthly = monthly.loc[:AS_OF]

# COMMAND ----------

# MAGIC %md ## 4. Forecast: exponential smoothing, the same for all parts

# COMMAND ----------

level = monthly.ewm(alpha=ALPHA).mean().iloc[-1]
run_month = monthly.index[-1] + 1
forecast = pd.DataFrame(
    [
        (str(run_month), part, str(run_month + step), round(qty, 2))
        for step in range(HORIZON)
        for part, qty in level.items()
    ],
    columns=["run_month", "Item Code", "forecast_month", "forecast_qty"],
)

# COMMAND ----------

# MAGIC %md ## 5. Save

# COMMAND ----------

os.makedirs(OUT, exist_ok=True)
forecast.to_csv(f"{OUT}/demand_forecast.csv", index=False)
print(f"{len(level)} parts forecast, {forecast['forecast_qty'].sum():,.0f} units")
