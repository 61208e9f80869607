"""What a person reads of an error."""

import pytest

from resources.errors import without_credentials, without_stack

FROM_SPARK = """py4j.protocol.Py4JJavaError: An error occurred while calling o71.sql.
: org.apache.spark.SparkException: [TASK_WRITE_FAILED] Task failed while writing rows to \
file:/lake/my_silver/parts. SQLSTATE: 58030
\tat org.apache.spark.sql.errors.QueryExecutionErrors$\
.taskFailedWhileWritingRowsError(QueryExecutionErrors.scala:843)
Caused by: org.apache.spark.SparkException: [TASK_WRITE_FAILED] Task failed
\tat org.apache.spark.scheduler.Task.run(Task.scala:147)
\t... 1 more
Caused by: java.io.IOException: Mkdirs failed to create file:/lake/my_silver/parts/yyyymm=0 \
(exists=false)
\tat org.apache.hadoop.fs.ChecksumFileSystem.create(ChecksumFileSystem.java:774)
\t... 17 more
"""


def test_an_error_of_the_jvm_is_told_without_its_stack() -> None:
    """Its first lines, its last cause and what to do are left; an error in Python is told as it
    is.
    """
    told = without_stack(FROM_SPARK).splitlines()
    assert told[1].startswith(": org.apache.spark.SparkException: [TASK_WRITE_FAILED]")
    assert told[2].startswith("Caused by: java.io.IOException: Mkdirs failed")
    assert "is it mounted read-only" in told[3]
    assert len(told) == 4
    assert without_stack("ValueError: 3 columns\n  of 4\n") == "ValueError: 3 columns\n  of 4"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("http://me:hush@host:5000/x", "http://***@host:5000/x"),
        ("postgresql://me:hu@sh@db/mlflow", "postgresql://***@db/mlflow"),
        ("sc://host:443/;token=dapi0123;user_id=me", "sc://host:443/;token=***;user_id=me"),
        (
            "sc://host:443/;use_ssl=true;TOKEN=dapi0123: refused",
            "sc://host:443/;use_ssl=true;TOKEN=*** refused",
        ),
        (
            "s3://lake?access_key=AK&secret=hush&region=eu",
            "s3://lake?access_key=***&secret=***&region=eu",
        ),
        (
            "postgresql://db/mlflow?user=me&password=hush",
            "postgresql://db/mlflow?user=me&password=***",
        ),
        ("'https://store/x?sv=2024&sig=a%2Fb'", "'https://store/x?sv=2024&sig=***'"),
        (
            "https://s3/x?X-Amz-Credential=AK%2Feu&X-Amz-Signature=ff#p",
            "https://s3/x?X-Amz-Credential=***&X-Amz-Signature=***#p",
        ),
        (
            "AccountName=a;AccountKey=hush==;EndpointSuffix=x",
            "AccountName=a;AccountKey=***;EndpointSuffix=x",
        ),
    ],
)
def test_an_address_is_shown_without_what_lets_somebody_in(said: str, shown: str) -> None:
    """Users, passwords, tokens, keys and signatures are cut out; what names the place stays."""
    assert without_credentials(said) == shown


@pytest.mark.parametrize(
    "said",
    [
        "2 keys are there twice; token: x",
        "set key=value",
        "sqlite:////srv/mlflow.db",
        "s3://lake?region=eu",
    ],
)
def test_what_holds_no_credentials_is_told_as_it_is(said: str) -> None:
    """Nothing but parameters and users of addresses is touched."""
    assert without_credentials(said) == said
