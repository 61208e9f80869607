"""Monitoring: whether the lines add up, demand looks like its past, forecasts turned out, and what is started because of it."""
