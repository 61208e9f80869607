"""Forecasts that were made elsewhere: read, stored, and compared with those of the zoo."""
