"""The zoo: every ModelSpec of every family, by name. Adding a model edits its family; a new family
is one more line here.
"""

from __future__ import annotations

import difflib

from medallion_assets.zoo import boosting, combination, given, intermittent, naive, statistical
from medallion_assets.zoo.spec import ModelSpec
from resources.settings import Settings

BASELINE = "seasonal_naive"


def collect(*families: tuple[ModelSpec, ...]) -> tuple[ModelSpec, ...]:
    """The models of all families, in order.

    Raises ValueError for a name used twice, a member that does not exist, and a model listed before
    one of its members.
    """
    specs = tuple(spec for family in families for spec in family)
    names = [spec.name for spec in specs]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two models of the zoo are called {', '.join(repeated)}")
    for position, spec in enumerate(specs):
        for member in spec.members:
            if member not in names[:position]:
                raise ValueError(f"{spec.name}: member {member} is no model listed before it")
    return specs


# Cheapest first, so that a broken input shows after seconds; combinations last, because they read
# their members.
ZOO = collect(
    naive.MODELS, intermittent.MODELS, statistical.MODELS, boosting.MODELS, combination.MODELS
)


def model(name: str) -> ModelSpec:
    """The model of that name. Raises ValueError, with a suggestion, where there is none."""
    for spec in ZOO:
        if spec.name == name:
            return spec
    names = [spec.name for spec in ZOO]
    close = difflib.get_close_matches(name, names, n=1)
    raise ValueError(
        f"no model '{name}' in the zoo; "
        + (f"did you mean {close[0]}?" if close else f"known: {', '.join(names)}")
    )


def enabled(settings: Settings) -> tuple[ModelSpec, ...]:
    """The models to run, in the zoo's order: those the configuration names, the members they need
    and the baseline, all when none is named; then the given forecasts.

    Raises ValueError for an unknown name, and for a given forecast that is called like a model.
    """
    if taken := sorted({spec.name for spec in ZOO} & set(settings.given_forecasts)):
        raise ValueError(
            f"given_forecasts: {', '.join(taken)} is a model of the zoo; choose another name"
        )
    wanted = {BASELINE}
    for spec in map(model, settings.zoo.models or ()):
        wanted |= {spec.name, *spec.members}
    own = (spec for spec in ZOO if settings.zoo.models is None or spec.name in wanted)
    return (*own, *given.specs(settings.given_forecasts))
