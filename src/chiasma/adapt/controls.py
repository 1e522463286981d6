"""What the numbers that a controller moves mean: from plain values around 0 to what regulates a training."""

import math
from collections.abc import Mapping, Sequence

from chiasma.adapt.slopes import PARTS
from chiasma.core.errors import ConfigError
from chiasma.model.gates import Gate, GatePlace
from chiasma.model.multimodal import ModelSpec
from chiasma.train.controlling import Control, LSTMController
from chiasma.train.regulation import Regulation

RATES = tuple(f"rate_{part}" for part in PARTS)
GATES = ("fusion_scale", "fusion_shift", "trunk_scale", "trunk_shift")
STRUCTURE = "structure"
NAMES = ("rate", *RATES, "dropout", "decay", *GATES, STRUCTURE)
"""Every setting that a controller can have, in the order of its outputs; a learned one has them all."""

OF_CONTROL: Mapping[Control, tuple[str, ...]] = {
    "rate": ("rate",),
    "rates": RATES,
    "dropout": ("dropout",),
    "decay": ("decay",),
    "gates": GATES,
    "structure": (STRUCTURE,),
}
NEEDS: Mapping[Control, str] = {
    "rates": "encoders, fusion, trunk or a head",
    "gates": "tokens between encoders and a head",
    "structure": "a trunk that grows (--config growth)",
}
"""What a design must have for a control to set anything; the other controls need nothing."""
# Dropout of .1 is usual and of .5 strong: a factor of 4 spans what is used.
DROPOUT_REACH = 4.0
# Gates cross half of their range in this many changes at least.
GATE_CHANGES = 5


def in_use(spec: LSTMController, model: ModelSpec, *, grows: bool) -> tuple[str, ...]:
    """Return the settings that a controller moves: those of its controls for which the design has a place.

    Args:
        spec: Names the controls.
        model: A part that it lacks has no rate and no gate.
        grows: Whether there is a population that may be eager for births and prunes.

    Raises:
        ConfigError: There is no place for any of them, so that the controller would set nothing.
    """
    names = _placed(spec, model, grows=grows)
    if not names:
        raise ConfigError(
            f"controller.controls: the controller would set nothing in this design: {_needs(spec.controls)}. Add "
            "rate, which fits every design."
        )
    return names


def without_place(spec: LSTMController, model: ModelSpec, *, grows: bool) -> str | None:
    """Return a line about the controls that set nothing in this design; None where all of them do."""
    names = _placed(spec, model, grows=grows)
    idle: list[Control] = [control for control in spec.controls if not set(OF_CONTROL[control]) & set(names)]
    return f"controller.controls sets nothing in this design by {', '.join(idle)}: {_needs(idle)}" if idle else None


def _placed(spec: LSTMController, model: ModelSpec, *, grows: bool) -> tuple[str, ...]:
    there = {"encoders": bool(model.encoders), "fusion": model.fusion is not None, "trunk": model.trunk is not None}
    there["head"] = model.whole is None
    lacking = {name for part in PARTS if not there[part] for name in (f"rate_{part}",)}
    if model.whole is not None:
        lacking |= {"fusion_scale", "fusion_shift"}
    if model.trunk is None:
        lacking |= {"trunk_scale", "trunk_shift"}
    if not grows:
        lacking.add(STRUCTURE)
    wanted = {name for control in spec.controls for name in OF_CONTROL[control]}
    return tuple(name for name in NAMES if name in wanted - lacking)


def moved(settings: Mapping[str, float], action: Sequence[float], spec: LSTMController) -> dict[str, float]:
    """Return the settings after an action; each stays in [-1, 1], whatever the action says.

    Args:
        settings: In use, by name; 0 is neutral.
        action: One number for each of :data:`NAMES`; a change is the hyperbolic tangent of it, times the largest one.
        spec: How far and how fast.
    """
    done: dict[str, float] = {}
    for name, value in settings.items():
        said = action[NAMES.index(name)]
        push = 0.0 if math.isnan(said) else math.tanh(said)
        following = push if name == STRUCTURE else value + push * _largest(name, spec)
        done[name] = min(1.0, max(-1.0, following))
    return done


def regulation(settings: Mapping[str, float], spec: LSTMController) -> Regulation:
    """Return what settings mean for the training; neutral ones change nothing, to the last bit."""
    rates = {part: scale_of(f"rate_{part}", settings, spec) for part in PARTS if f"rate_{part}" in settings}
    places: tuple[GatePlace, ...] = ("fusion", "trunk")
    gates: dict[GatePlace, Gate] = {
        place: Gate(
            scale=1 + spec.strength * settings[f"{place}_scale"], shift=spec.strength * settings[f"{place}_shift"]
        )
        for place in places
        if f"{place}_scale" in settings
    }
    return Regulation(
        rate=scale_of("rate", settings, spec),
        rates=rates,
        decay=scale_of("decay", settings, spec),
        dropout=scale_of("dropout", settings, spec),
        gates=gates,
    )


def scale_of(name: str, settings: Mapping[str, float], spec: LSTMController) -> float:
    """Return the factor that a setting stands for; 1 where it is not in use."""
    return _reach(name, spec) ** settings.get(name, 0.0)


def words(settings: Mapping[str, float], spec: LSTMController) -> dict[str, float]:
    """Return what a reader sees: factors, and for gates and structure the settings themselves."""
    plain = (*GATES, STRUCTURE)
    return {name: value if name in plain else scale_of(name, settings, spec) for name, value in settings.items()}


def _needs(controls: Sequence[Control]) -> str:
    return "; ".join(f"{control} needs {NEEDS[control]}" for control in controls)


def _reach(name: str, spec: LSTMController) -> float:
    return DROPOUT_REACH if name == "dropout" else spec.reach


def _largest(name: str, spec: LSTMController) -> float:
    """Return the largest change of a setting by one action."""
    return 1 / GATE_CHANGES if name in GATES else math.log(spec.step) / math.log(_reach(name, spec))
