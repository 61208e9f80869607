"""What a person reads of an error."""

from resources.errors import without_stack

FROM_SPARK = """py4j.protocol.Py4JJavaError: An error occurred while calling o71.sql.
: org.apache.spark.SparkException: [TASK_WRITE_FAILED] Task failed while writing rows to file:/lake/my_silver/parts. SQLSTATE: 58030
\tat org.apache.spark.sql.errors.QueryExecutionErrors$.taskFailedWhileWritingRowsError(QueryExecutionErrors.scala:843)
Caused by: org.apache.spark.SparkException: [TASK_WRITE_FAILED] Task failed
\tat org.apache.spark.scheduler.Task.run(Task.scala:147)
\t... 1 more
Caused by: java.io.IOException: Mkdirs failed to create file:/lake/my_silver/parts/yyyymm=0 (exists=false)
\tat org.apache.hadoop.fs.ChecksumFileSystem.create(ChecksumFileSystem.java:774)
\t... 17 more
"""


def test_an_error_of_the_jvm_is_told_without_its_stack() -> None:
    """Its first lines, its last cause and what to do are left; an error in Python is told as it is."""
    told = without_stack(FROM_SPARK).splitlines()
    assert told[1].startswith(": org.apache.spark.SparkException: [TASK_WRITE_FAILED]")
    assert told[2].startswith("Caused by: java.io.IOException: Mkdirs failed")
    assert "is it mounted read-only" in told[3]
    assert len(told) == 4
    assert without_stack("ValueError: 3 columns\n  of 4\n") == "ValueError: 3 columns\n  of 4"
