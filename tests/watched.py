"""Settings that note which of their keys are read, so that a test can say what a transform used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel


class Watched:
    """A part of a configuration that behaves like it and notes the names of the keys that are read.

    Parts below it are watched too. What is read through a method or a property of the part counts
    as what that reads itself.
    """

    def __init__(self, part: BaseModel, read: set[str]) -> None:
        self.__dict__.update(_part=part, _read=read)

    @property
    def __class__(self) -> type:  # type: ignore[override]
        return type(self._part)

    def __getattr__(self, name: str) -> Any:
        found = getattr(type(self._part), name, None)
        if isinstance(found, property):
            return found.__get__(self)
        if name == "model_dump":
            return self._dump
        if callable(found):
            return found.__get__(self)
        value = getattr(self._part, name)
        if not isinstance(value, BaseModel) and not _holds_parts(value):
            self._read.add(name)
        return watched(value, self._read)

    def _dump(self, **options: Any) -> dict[str, Any]:
        found = self._part.model_dump(**options)
        self._read |= keys_of(found)
        return found

    def __eq__(self, other: object) -> bool:
        return bool(self._part == getattr(other, "_part", other))

    def __hash__(self) -> int:
        return hash(type(self._part))


def _holds_parts(value: object) -> bool:
    held = value.values() if isinstance(value, Mapping) else value
    return isinstance(held, Iterable) and any(isinstance(one, BaseModel) for one in held)


def watched(value: Any, read: set[str]) -> Any:
    """A value of a configuration, watched wherever it holds parts of one."""
    if isinstance(value, BaseModel):
        return Watched(value, read)
    if isinstance(value, list | tuple):
        return type(value)(watched(one, read) for one in value)
    if isinstance(value, Mapping):
        return {key: watched(one, read) for key, one in value.items()}
    return value


def keys_of(content: object) -> set[str]:
    """All names in a nested mapping."""
    if isinstance(content, Mapping):
        below = (keys_of(value) for value in content.values())
        return {str(key) for key in content}.union(*below)
    if isinstance(content, list | tuple):
        return set().union(*(keys_of(one) for one in content))
    return set()
