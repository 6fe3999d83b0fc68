"""What all of a study file's sections have in common, and the records made of them."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())

    first_fields: ClassVar[frozenset[str] | None] = None
    """The fields that keys and digests have held from the start; None: all of them. See `identity`."""

    def identity(self) -> dict[str, Any]:
        """The content that keys and digests are made of, as plain data.

        A field that came later is part of it only where it is not at its default: what was trained before keeps its key.
        """
        content = self.model_dump(mode="json")
        later = _later_defaults(type(self))
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name in later and value == later[name]:
                del content[name]
            elif isinstance(value, Section):
                content[name] = value.identity()
            elif isinstance(value, list | tuple):
                content[name] = [
                    item.identity() if isinstance(item, Section) else dumped
                    for item, dumped in zip(value, content[name], strict=True)
                ]
        return content


@cache
def _later_defaults(section: type[Section]) -> dict[str, Any]:
    """Of the fields that came later. Pydantic copies a default each time that it is asked for."""
    first = section.first_fields
    fields = {} if first is None else {name: field for name, field in section.model_fields.items() if name not in first}
    return {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
