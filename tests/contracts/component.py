"""What every component keeps, whatever it is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, get_args

import pytest
import torch
from torch import nn

from chiasma.core.spec import Spec


class ComponentContract(ABC):
    """Inherit the contract of your part and set ``specs``; the tests come by themselves."""

    specs: Sequence[Spec]

    @abstractmethod
    def build(self, spec: Any) -> nn.Module:
        """Return a fresh module."""

    @abstractmethod
    def call(self, module: nn.Module, seed: int = 0) -> torch.Tensor:
        """Return the output on a fixed random input with padding."""

    def fresh(self, spec: Any, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return self.build(spec).eval()

    def test_a_spec_survives_json(self, spec: Spec):
        assert type(spec).from_json(spec.to_json()) == spec

    def test_an_unknown_key_is_refused(self, spec: Spec):
        with pytest.raises(ValueError, match="nonsense: unknown key"):
            type(spec).from_dict({**spec.to_dict(), "nonsense": 1})

    def test_evaluation_is_deterministic(self, spec: Spec):
        module = self.fresh(spec)
        assert torch.equal(self.call(module), self.call(module))

    def test_equal_seeds_draw_equal_weights(self, spec: Spec):
        assert torch.equal(self.call(self.fresh(spec)), self.call(self.fresh(spec)))

    def test_weights_reload_strictly_to_the_same_output(self, spec: Spec):
        module, other = self.fresh(spec), self.fresh(spec, seed=1)
        other.load_state_dict(module.state_dict(), strict=True)
        assert torch.equal(self.call(module), self.call(other))

    def test_gradients_reach_all_parameters(self, spec: Spec):
        module = self.fresh(spec).train()
        self.call(module).square().sum().backward()
        without = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert without == []

    def test_half_precision_runs(self, spec: Spec):
        module = self.fresh(spec).train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = self.call(module)
            out.float().square().sum().backward()
        assert out.isfinite().all()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())

    def test_rows_stay_apart_while_training(self, spec: Spec):
        module = self.fresh(spec).train()
        for part in module.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        trained = self.call(module)
        torch.testing.assert_close(trained, self.call(module.eval()), atol=1e-6, rtol=1e-6)

    def test_no_knob_is_dead(self, spec: Spec):
        base = self.fingerprint(spec)
        for name in self.knobs(spec):
            assert any(self.fingerprint(other) != base for other in neighbours(spec, name)), name

    def knobs(self, spec: Spec) -> list[str]:
        """Return the fields that a user may set."""
        return [name for name in type(spec).model_fields if name != "kind"]

    def fingerprint(self, spec: Spec) -> tuple[Any, ...]:
        """Return parameters and outputs in both modes; a knob that leaves all of it alone does nothing."""
        module = self.fresh(spec)
        shapes = tuple((name, tuple(value.shape)) for name, value in module.state_dict().items())
        evaluated = self.call(module)
        torch.manual_seed(0)
        trained = self.call(module.train())
        return shapes, digest(evaluated), digest(trained)


def neighbours(spec: Spec, name: str) -> list[Spec]:
    """Return the specs that differ from one in one field only, and are valid."""
    field = type(spec).model_fields[name]
    value = getattr(spec, name)
    found = []
    for other in _others(value, field.annotation):
        try:
            found.append(type(spec).from_dict({**spec.to_dict(), name: other}))
        except ValueError:
            continue
    assert found, f"The test knows no other value for {type(spec).__name__}.{name}={value!r}."
    return found


def digest(output: torch.Tensor) -> tuple[Any, ...]:
    return tuple(output.shape), tuple(round(float(v), 6) for v in output.detach().flatten()[:64])


def _others(value: Any, annotation: Any) -> list[Any]:
    if isinstance(value, Spec):
        return [
            other.to_dict() for name in type(value).model_fields if name != "kind" for other in neighbours(value, name)
        ]
    if isinstance(value, str):
        return [option for option in get_args(annotation) if option != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value // 2, value + 1, value * 2]
    if isinstance(value, float):
        return [value / 2 + 0.25]
    if value is None:
        return [5]
    if isinstance(value, tuple):
        return [[*value, value[-1]], [value[0] + 1, *value[1:]]]
    return []
