"""Held-out months scored beside the references: never imported by what serves."""
