"""Demand forecasting as Dagster assets: bronze, silver and gold tables, the model zoo, monitoring
and operations.
"""
