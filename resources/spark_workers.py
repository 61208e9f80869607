"""Daemon of Spark's Python workers on one machine. Spark ends workers that are idle for a minute;
new ones start with these imports.
"""

from pyspark.daemon import manager

import resources.worker_imports  # noqa: F401

if __name__ == "__main__":
    manager()
