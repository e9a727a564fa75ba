"""Parameter groups: which parameters are trained, at which share of the learning rate, with which decay."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer


def parameter_groups(
    model: nn.Module,
    *,
    undecayed: set[str],
    layers: Sequence[Sequence[str]] = (),
    layer_decay: float = 1.0,
    rate_factors: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Return parameter groups for an optimiser: with and without weight decay; with layer decay, also per layer.

    Vectors (biases, norms) and the names in `undecayed` do not decay; frozen parameters are in no group. With a
    `layer_decay` below 1 the rate of layer i of n is `layer_decay ** (n - 1 - i)` of the optimiser's, so that the last
    one, the head, has the full rate (Bao et al. 2022, BEiT, https://arxiv.org/abs/2106.08254).

    Args:
        model: The model.
        undecayed: Names of further parameters without decay.
        layers: Names from the stem to the head; parameters outside have the full rate.
        layer_decay: Ratio between the rates of neighbouring layers.
        rate_factors: Further factors of the rate, by the beginning of parameter names.

    Returns:
        Groups with `params`, `names`, `name`, `lr_scale`, and `weight_decay` of 0 where nothing decays.

    Raises:
        ValueError: A name in `undecayed` that is not a parameter.
    """
    names = dict(model.named_parameters())
    unknown = undecayed - names.keys()
    if unknown:
        raise ValueError(f"no_weight_decay() names parameters that do not exist: {sorted(unknown)}")
    layer_of = {name: number for number, layer in enumerate(layers) for name in layer}
    last = max(len(layers) - 1, 0)
    groups: dict[tuple[int, bool, float], dict[str, Any]] = {}
    for name, parameter in names.items():
        if not parameter.requires_grad:
            continue
        layer = layer_of.get(name, last) if layer_decay != 1 else last
        decays = parameter.ndim > 1 and name not in undecayed
        factor = next((f for prefix, f in (rate_factors or {}).items() if name.startswith(prefix)), 1.0)
        new = _new_group(layer, last, layer_decay, decays=decays, factor=factor)
        group = groups.setdefault((layer, not decays, factor), new)
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def _new_group(layer: int, last: int, layer_decay: float, *, decays: bool, factor: float) -> dict[str, Any]:
    where = f"layer {layer} of {last}, " if layer_decay != 1 else ""
    where += f"rate x {factor:g}, " if factor != 1 else ""
    group = {
        "params": [],
        "names": [],
        "name": f"{where}{'decayed' if decays else 'not decayed'}",
        "lr_scale": factor * layer_decay ** (last - layer),
    }
    return group if decays else {**group, "weight_decay": 0.0}


def scale_rates(optimizer: Optimizer, factor: float) -> None:
    """Multiply each group's rate by a factor and by the group's own share."""
    for group in optimizer.param_groups:
        group["lr"] *= factor * group.get("lr_scale", 1.0)


def group_record(optimizer: Optimizer, model: nn.Module) -> list[dict[str, Any]]:
    """Return the record of a run's groups: peak rate, decay and names of each; frozen parameters at the end."""
    record = [
        {
            "name": group["name"],
            "tensors": len(group["params"]),
            "parameters": sum(parameter.numel() for parameter in group["params"]),
            "lr": float(group["lr"]),
            "weight_decay": float(group.get("weight_decay", 0.0)),
            "names": list(group["names"]),
        }
        for group in optimizer.param_groups
    ]
    frozen = {name: p.numel() for name, p in model.named_parameters() if not p.requires_grad}
    if frozen:
        parameters = sum(frozen.values())
        rest = {"lr": 0.0, "weight_decay": 0.0, "names": list(frozen)}
        record.append({"name": "frozen", "tensors": len(frozen), "parameters": parameters, **rest})
    return record


def group_summary(record: Sequence[dict[str, Any]]) -> str:
    """Return the record as one line: how many parameters are trained, at which peak rates, with which decay."""
    trained = [row for row in record if row["name"] != "frozen"]
    frozen = sum(row["parameters"] for row in record) - sum(row["parameters"] for row in trained)
    first, *_, head = [row["lr"] for row in trained] * 2
    rate = f"peak lr {head:.3g}" if first == head else f"peak lr {head:.3g} at the head, {first:.3g} at the first layer"
    decays = {
        row["weight_decay"]: sum(r["parameters"] for r in trained if r["weight_decay"] == row["weight_decay"])
        for row in sorted(trained, key=lambda row: -row["weight_decay"])
    }
    decay = " and ".join(f"{value:g} for {count:,}" for value, count in decays.items())
    return (
        f"training {sum(decays.values()):,} parameters{f', {frozen:,} are frozen' if frozen else ''}: {rate}; "
        f"weight decay {decay} (all groups: parameter_groups.json)"
    )
