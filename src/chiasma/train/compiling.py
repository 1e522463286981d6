"""What ``torch.compile`` cannot follow, and what its failures come to."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch import nn

from chiasma.core.errors import ChiasmaError, ConfigError
from chiasma.train.controlling import Control, ControllerSpec, LSTMController

INTERPRETED: tuple[Control, ...] = ("dropout", "gates")
"""What a compiled graph holds as plain numbers: each change of one is another graph."""

LONGEST_LINE = 300


class CompileError(ChiasmaError):
    """A model that the compiler could not translate, or whose compiler was ended."""


def check_compiled(controller: ControllerSpec | None) -> None:
    """Refuse to compile a model whose graph would change with each decision of a controller.

    After eight translations torch gives up, and the rest of the training is slower than without.

    Raises:
        ConfigError: Names the controls, and both remedies.
    """
    if not isinstance(controller, LSTMController):
        return
    moved = [control for control in controller.controls if control in INTERPRETED]
    if moved:
        left = ",".join(control for control in controller.controls if control not in moved) or "rate"
        raise ConfigError(
            f"run.compile=true and controller.controls with {' and '.join(moved)} exclude each other: every decision "
            f"would translate the model anew. Choose run.compile=false or controller.controls=[{left}]."
        )


def compiled(model: nn.Module) -> Callable[..., object]:
    """Return what translates the model at its first call; translations of what it was before are forgotten."""
    # Torch counts how often the same code is translated, and gives up after eight: a trunk may change more often.
    torch.compiler.reset()
    return torch.compile(model)


@contextmanager
def compiler_errors() -> Generator[None]:
    """Turn the failures of the compiler, which are whole logs, into one line with the remedy.

    Raises:
        CompileError: The compiler failed or was ended.
    """
    # Here, because importing torch's compiler takes seconds and few trainings need it.
    from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        cause = error.inner_exception if isinstance(error, BackendCompilerFailed) else error
        said = f"{type(cause).__name__}: {first_line(cause).rstrip('.')}"
        raise CompileError(f"The model could not be compiled: {said}. Do without: --set run.compile=false.") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error that a library raised, cut where it is very long."""
    lines = str(error).strip().splitlines()
    line = lines[0].strip() if lines else type(error).__name__
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..."
