"""The model registry: versions with their tags, and the alias of the one that serves."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from typing import Any, Protocol

from resources import place
from resources.mlflow_connection import (
    Connection,
    TrackingUnavailable,
    claim_names,
    told_when_gone,
)
from resources.stored_models import (
    FITS_SHA256,
    ModelFormat,
    address_of_model,
    model_of,
    read_model,
)

ALIAS = "champion"
DESCRIPTION_LENGTH = 5000  # characters that every registry keeps
# tag of a logged model: the registered versions that were made of it
REGISTERED_AS = "mlflow.modelVersions"


class Registry(Protocol):
    """Where model versions are kept. Implementations: MlflowRegistry, and a fake in tests."""

    def register(self, run_id: str, tags: Mapping[str, str], description: str = "") -> int: ...

    def load_version(self, version: int) -> Any: ...

    def version_tags(self, version: int) -> Mapping[str, str]: ...

    def tag_version(self, version: int, tags: Mapping[str, str]) -> None: ...

    def alias(self) -> int | None: ...

    def set_alias(self, version: int) -> None: ...


class MlflowRegistry:
    """MLflow's registry by the configured address. ``models`` reads what a version holds."""

    def __init__(self, connection: Connection, models: ModelFormat | None) -> None:
        self.connection, self._models = connection, models

    @property
    def _name(self) -> str:
        return self.connection.settings.registered_model

    @told_when_gone
    def register(self, run_id: str, tags: Mapping[str, str], description: str = "") -> int:
        """Register the model of a run as a new version, with the digest of its fits; returns its
        number. The description stands on the version's page.
        """
        from mlflow.exceptions import MlflowException

        client, name = self.connection.client(), self._name
        try:
            client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            client.create_registered_model(
                name,
                description=(
                    "Monthly demand forecast by part number: one model for each demand class."
                ),
            )
            if not self.connection.settings.mlflow.is_own_file:
                claim_names(client, self.connection.settings, self.connection.experiment)
        run = client.get_run(run_id)
        digest, model_id = run.data.tags.get(FITS_SHA256), model_of(run)
        version = client.create_model_version(
            name,
            address_of_model(run),
            run_id,
            tags={**tags, **({FITS_SHA256: digest} if digest else {})},
            description=description[:DESCRIPTION_LENGTH] or None,
            model_id=model_id,
        )
        if model_id:
            registered = [{"name": name, "version": str(version.version)}]
            client.set_logged_model_tags(model_id, {REGISTERED_AS: json.dumps(registered)})
        place.note_model(self.connection.settings)
        return int(version.version)

    @told_when_gone
    def load_version(self, version: int) -> Any:
        """The model of a registered version. Raises ModelRefused."""
        client, name = self.connection.client(), self._name
        return read_model(
            self._models,
            f"models:/{name}/{version}",
            f"version {version} of {name}",
            client.get_model_version(name, str(version)).tags.get(FITS_SHA256),
            "serve another version: `medallion rollback all --to VERSION`, or train a newer month",
        )

    @told_when_gone
    def version_tags(self, version: int) -> Mapping[str, str]:
        """The tags of a registered version."""
        found = self.connection.client().get_model_version(self._name, str(version))
        return dict(found.tags)

    @told_when_gone
    def tag_version(self, version: int, tags: Mapping[str, str]) -> None:
        """Set tags of a registered version, where the registry keeps any."""
        client, name = self.connection.client(), self._name
        with contextlib.suppress(NotImplementedError):
            for key, value in tags.items():
                client.set_model_version_tag(name, str(version), key, value)

    @told_when_gone
    def alias(self) -> int | None:
        """Version that the alias points to; None without one. Raises TrackingUnavailable where the
        registry keeps no aliases.
        """
        from mlflow.exceptions import MlflowException

        try:
            return int(
                self.connection.client().get_model_version_by_alias(self._name, ALIAS).version
            )
        except NotImplementedError as error:
            raise TrackingUnavailable(
                f"the model registry at {self.connection.settings.registry_uri} keeps no aliases,"
                " by which the version that serves is found; set mlflow.registry_uri to a registry"
                " that does. Nothing was fitted and no table was changed."
            ) from error
        except MlflowException as error:
            # A registry that can't be asked is no registry without the alias: the next decision
            # would move it.
            if error.error_code == "RESOURCE_DOES_NOT_EXIST" or re.search(
                "alias .* not found", str(error)
            ):
                return None
            raise

    @told_when_gone
    def set_alias(self, version: int) -> None:
        """Point the alias to a version, if it does not yet."""
        if self.alias() != version:
            self.connection.client().set_registered_model_alias(self._name, ALIAS, str(version))
