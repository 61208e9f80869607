"""The Databricks bundle in Python: resources made from the lakehouse's configuration, and checks of
them that need no workspace.
"""
