"""Resolves Delta's jars once through Spark's own resolver and copies them into a folder. Runs
inside the virtual environment.
"""

import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from pyspark.sql import SparkSession

JAR_COUNT = 7
# All of these come with pyspark; a second copy costs 70 MB and may shadow the first.
EXCLUDES = (
    "com.fasterxml*:*,org.apache*:*,org.slf4j:*,org.xerial*:*,com.github*:*,commons-*:*,"
    "io.airlift:*,javax*:*,org.scala-lang*:*,org.roaringbitmap:*,org.locationtech*:*,com.google*:*"
)


def resolve(jars_dir: Path) -> None:
    """Fill `jars_dir`, which appears complete or not at all. RuntimeError if the resolver brought
    another number of jars.
    """
    spark_minor = ".".join(version("pyspark").split(".")[:2])
    delta_package = f"io.delta:delta-spark_{spark_minor}_2.13:{version('delta-spark')}"
    with tempfile.TemporaryDirectory() as ivy_dir:
        spark = (
            SparkSession.builder.master("local[1]")
            .config("spark.ui.enabled", "false")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.jars.packages", delta_package)
            .config("spark.jars.excludes", EXCLUDES)
            .config("spark.jars.ivy", ivy_dir)
            # Spark's default resolvers fail where ~/.m2 holds a POM without its jar.
            .config(
                "spark.jars.ivySettings",
                Path(__file__).resolve().with_name("ivysettings.xml").as_uri(),
            )
            .getOrCreate()
        )
        spark.stop()
        found = sorted(jar.name for jar in Path(ivy_dir, "jars").glob("*.jar"))
        if len(found) != JAR_COUNT:
            raise RuntimeError(
                f"expected {JAR_COUNT} jars of {delta_package}, found {len(found)}: {found}"
            )
        incomplete = jars_dir.with_name(jars_dir.name + "-incomplete")
        shutil.rmtree(incomplete, ignore_errors=True)
        shutil.copytree(Path(ivy_dir, "jars"), incomplete)
    shutil.rmtree(jars_dir, ignore_errors=True)
    incomplete.rename(jars_dir)


if __name__ == "__main__":
    resolve(Path(sys.argv[1]))
