"""What the assets talk to: settings, Spark, the lakehouse and experiment tracking, each a protocol
beside its implementation.
"""
