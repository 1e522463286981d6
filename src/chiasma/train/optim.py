"""The optimiser, whose state follows each parameter by name.

Torch keeps state by position: adding, removing or reordering parameters silently gives one the moments of another.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from chiasma.core.errors import ConfigError
from chiasma.core.spec import suggestion
from chiasma.model.encoders.layered import layered_in
from chiasma.train.design import SGD, Adam, AdamW, OptimSpec
from chiasma.train.regulation import NEUTRAL, Regulation

# Weight decay is for weights that multiply activations. Norms, embeddings and parameters that a module of its own kind
# holds (positions, class tokens, gates) are left alone.
DECAYED = (
    nn.Linear,
    nn.Bilinear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.EmbeddingBag,
    nn.MultiheadAttention,
    nn.RNNBase,
)
# These kernels update all parameters in one call; elsewhere torch's own choice is used.
FUSED_DEVICES = frozenset({"cpu", "cuda"})


class NamedOptimizer:
    """AdamW, Adam or SGD over a model's trainable parameters, with state saved and loaded by parameter name.

    Args:
        model: Whose parameters are optimised.
        spec: Algorithm, peak rate and weight decay.
    """

    def __init__(self, model: nn.Module, spec: OptimSpec) -> None:
        self.spec = spec
        self.factors: dict[str, float] = {}
        self.regulation = NEUTRAL
        self.parameters = trainable(model)
        if not self.parameters:
            raise ConfigError("The model has no trainable parameters, so there is nothing to optimise.")
        self.decayed = decayed_names(model)
        decay = spec.layer_decay
        self.by_depth = {name: decay**depth for each in layered_in(model) for name, depth in each.items()}
        self._all = list(self.parameters.values())
        self.algorithm = _algorithm(self._all, spec)
        self._rate = spec.lr
        self._begin_momentum()
        self._group()

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        self.algorithm.step()

    def zero_grad(self) -> None:
        """Drop gradients, so that a parameter without one keeps still instead of coasting on its momentum."""
        for parameter in self._all:
            parameter.grad = None

    def set_rate(self, rate: float) -> None:
        """Use this learning rate from now on, times the factor of each part of the model."""
        self._rate = rate
        for group in self.algorithm.param_groups:
            group["lr"] = rate * group["factor"]

    def scale(self, factors: Mapping[str, float]) -> None:
        """Scale the rate of parts of the model: ``{"fusion": 0.5}``; the longest matching prefix of a name counts.

        Raises:
            ConfigError: A prefix matches no parameter, or a factor is negative.
        """
        for prefix, factor in factors.items():
            if not any(_belongs(name, prefix) for name in self.parameters):
                parts = sorted({name.rpartition(".")[0] for name in self.parameters})
                raise ConfigError(f"No parameter is called {prefix!r} or begins so.{suggestion(prefix, parts)}")
            if not 0 <= factor < float("inf"):
                raise ConfigError(f"A learning-rate factor must be at least 0 and finite, but {prefix!r} has {factor}.")
        self.factors = dict(factors)
        self._group()

    def regulate(self, regulation: Regulation) -> None:
        """Scale rates by part of the model, and the weight decay, on top of the factors of :meth:`scale`."""
        self.regulation = regulation
        self._group()

    def gradients(self) -> list[Tensor]:
        """Return the gradients there are."""
        return [parameter.grad for parameter in self._all if parameter.grad is not None]

    def state(self) -> dict[str, Tensor]:
        """Return all state as ``{"parameter/moment": tensor}``."""
        return {
            f"{name}/{key}": value
            for name, parameter in self.parameters.items()
            for key, value in self.algorithm.state.get(parameter, {}).items()
            if value is not None
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Give each parameter its state by name; one that is new starts afresh, state of one that is gone is dropped.

        Raises:
            ValueError: A moment's shape differs from its parameter's.
        """
        self.algorithm.state.clear()
        for entry, value in state.items():
            name, _, key = entry.rpartition("/")
            parameter = self.parameters.get(name)
            if parameter is None:
                continue
            if value.ndim and value.shape != parameter.shape:
                raise ValueError(
                    f"Optimiser state {entry} must have its parameter's shape {tuple(parameter.shape)}, "
                    f"but has {tuple(value.shape)}."
                )
            self.algorithm.state[parameter][key] = value.detach().to(_place(parameter, key, self.algorithm)).clone()
        self._begin_momentum()

    def rekeyed(self, model: nn.Module) -> "NamedOptimizer":
        """Return an optimiser for an edited model; parameters of the same name and shape keep their state."""
        following = NamedOptimizer(model, self.spec)
        # All of a parameter's state or none: a count of steps without moments is nothing to go on from.
        same = {name for name, each in following.parameters.items() if self._shape(name) == each.shape}
        kept = {entry: value for entry, value in self.state().items() if entry.rpartition("/")[0] in same}
        following.load_state(kept)
        following.scale({prefix: factor for prefix, factor in self.factors.items() if following.has(prefix)})
        following.regulate(self.regulation)
        following.set_rate(self._rate)
        return following

    def has(self, prefix: str) -> bool:
        """Return whether any parameter is called or begins so."""
        return any(_belongs(name, prefix) for name in self.parameters)

    def _shape(self, name: str) -> torch.Size | None:
        return self.parameters[name].shape if name in self.parameters else None

    def _begin_momentum(self) -> None:
        """Give SGD's newcomers a momentum of zero, which is what none means: its fused kernel takes all or none."""
        if not isinstance(self.spec.algorithm, SGD) or not self.spec.algorithm.momentum:
            return
        for parameter in self._all:
            if "momentum_buffer" not in self.algorithm.state[parameter]:
                self.algorithm.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def _group(self) -> None:
        """Put parameters of one factor and one weight decay together; the state stays with the parameters."""
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, parameter in self.parameters.items():
            groups.setdefault((self._factor(name), name in self.decayed), []).append(parameter)
        template = {key: value for key, value in self.algorithm.param_groups[0].items() if key != "params"}
        self.algorithm.param_groups = [
            {
                **template,
                "params": members,
                "factor": factor,
                "lr": self._rate * factor,
                "weight_decay": self.spec.weight_decay * self.regulation.decay if decays else 0.0,
            }
            for (factor, decays), members in groups.items()
        ]

    def _factor(self, name: str) -> float:
        matching = [prefix for prefix in self.factors if _belongs(name, prefix)]
        scaled = self.factors[max(matching, key=len)] if matching else 1.0
        return self.regulation.rate_of(name) * scaled * self.by_depth.get(name, 1.0)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that learn, by name; a tied one once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def frozen(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights that no step changes, by name: those of a frozen backbone."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if not parameter.requires_grad}


def changeable(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all else that a model's state holds: what learns, and buffers."""
    kept = frozen(model)
    return {name: value.detach().clone() for name, value in model.state_dict().items() if name not in kept}


def decayed_names(model: nn.Module) -> frozenset[str]:
    """Return the names of the parameters to which weight decay applies, chosen by the type of their module."""
    return frozenset(
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, DECAYED)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim > 1
    )


def _belongs(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def _algorithm(parameters: list[nn.Parameter], spec: OptimSpec) -> torch.optim.Optimizer:
    fused = True if all(parameter.device.type in FUSED_DEVICES for parameter in parameters) else None
    match spec.algorithm:
        case AdamW() as chosen:
            betas = (chosen.beta1, chosen.beta2)
            return torch.optim.AdamW(parameters, lr=spec.lr, betas=betas, eps=chosen.epsilon, fused=fused)
        case Adam() as chosen:
            betas = (chosen.beta1, chosen.beta2)
            return torch.optim.Adam(parameters, lr=spec.lr, betas=betas, eps=chosen.epsilon, fused=fused)
        case SGD() as chosen:
            nesterov = chosen.nesterov and chosen.momentum > 0
            return torch.optim.SGD(parameters, lr=spec.lr, momentum=chosen.momentum, nesterov=nesterov, fused=fused)


def _place(parameter: nn.Parameter, key: str, algorithm: torch.optim.Optimizer) -> torch.device:
    """Return where a piece of state lives: Adam counts steps on the CPU unless its kernels are fused."""
    if key == "step" and not algorithm.param_groups[0]["fused"]:
        return torch.device("cpu")
    return parameter.device
