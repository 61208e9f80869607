"""Policies that assets share: each a named function with the failure it prevents."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import ParamSpec, TypeVar

import dagster as dg

from resources.errors import Refused

P = ParamSpec("P")
R = TypeVar("R")


def monthly_freshness(layer: str) -> dg.FreshnessPolicy:
    """Prevents a pipeline that stopped from looking healthy: a layer without any new month for 40 days is stale, 35 days warns.

    It looks at the newest materialization of any month; whether a certain month is missing is the freshness sensor's business.
    """
    return dg.FreshnessPolicy.time_window(fail_window=timedelta(days=40), warn_window=timedelta(days=35))


def retry_transient() -> dg.RetryPolicy:
    """Prevents a short loss of storage or network from failing a night's run: one more try after half a minute.

    Mistakes in data, configuration or code raise dg.Failure(allow_retries=False) and are not tried again.
    """
    return dg.RetryPolicy(max_retries=1, delay=30)


def clear_refusals(body: Callable[P, R]) -> Callable[P, R]:
    """Prevents a mistake that no repeat can mend from being tried again, and its message from drowning in a stack trace.

    Refusals of data, configuration, writes and tracking become dg.Failure with their message; all other errors pass.
    """

    @functools.wraps(body)
    def refusing(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return body(*args, **kwargs)
        except Refused as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error

    return refusing
