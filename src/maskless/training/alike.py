"""Whether the weights of one model are the same function in another."""

from __future__ import annotations

import dataclasses
from typing import Any

from maskless.models import PartitionConfig, kind_of
from maskless.training.recipe import classes_of

SILENT = ("length", "dropout", "grid", "causal", "prompt")  # nothing of it changes what weights compute: positions say whether the grid is looked at


def unlike(theirs: Any, ours: Any, who: str) -> list[str]:
    """Why the weights of a configuration would be another function in ours, in words; empty where they are the same one. Partition models are alike,
    whether they have a cache or not.

    Args:
        who: has the other configuration, such as "teacher".
    """
    kinds = kind_of(ours), kind_of(theirs)
    if kinds[0] != kinds[1] and not (isinstance(ours, PartitionConfig) and isinstance(theirs, PartitionConfig)):
        return [f"type {kinds[0]}, {who} {kinds[1]}"]
    silent = {*SILENT, "cond_dim"} if classes_of(theirs) else {*SILENT}  # a label's vector is the condition then
    both = [field.name for field in dataclasses.fields(theirs) if hasattr(ours, field.name) and field.name not in silent]
    pairs = [(name, getattr(ours, name), getattr(theirs, name)) for name in both]
    return [f"{name} {here}, {who} {there}" for name, here, there in pairs if here != there]
