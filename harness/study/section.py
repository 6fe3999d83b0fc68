"""What all of a study file's sections have in common, and the records made of them."""

from __future__ import annotations

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
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            later = self.first_fields is not None and name not in self.first_fields
            if later and value == field.get_default(call_default_factory=True):
                del content[name]
            elif isinstance(value, Section):
                content[name] = value.identity()
            elif isinstance(value, list | tuple):
                content[name] = [
                    item.identity() if isinstance(item, Section) else dumped
                    for item, dumped in zip(value, content[name], strict=True)
                ]
        return content
