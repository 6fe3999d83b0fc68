"""Which of a student's parameters a look-ahead moves."""

from __future__ import annotations

from typing import Any

from torch import nn

from harness.models.layers import above_layers, encoder_layers


def moved_names(model: nn.Module, layers: int | None) -> set[str]:
    """Names of the parameters in the last `layers` encoder layers and above them; all without `layers`."""
    names = [name for name, _ in model.named_parameters()]
    if layers is None:
        return set(names)
    encoder = encoder_layers(model)
    if not 1 <= layers <= len(encoder):
        raise ValueError(f"the look-ahead shall move the last {layers} layers of a model that has {len(encoder)}")
    base: Any = model.base_model
    below = {id(p) for p in base.parameters()} - {id(p) for p in above_layers(base)}
    below -= {id(p) for layer in encoder[len(encoder) - layers :] for p in layer.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) not in below}
