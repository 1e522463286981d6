"""A trained model with source that nobody has approved: it is called like any other and answers from the jail."""

from collections.abc import Mapping

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from chiasma.core.errors import ChiasmaError
from chiasma.data.batch import Batch, Output
from chiasma.data.signature import Signature
from chiasma.evaluate.jail import Jail, Limits, Region, SharedArray
from chiasma.evaluate.jailed_trial import WORK, refusal_of, shared_jail
from chiasma.evaluate.jailed_work import LOGITS, WEIGHTS, batch_arrays
from chiasma.evaluate.job import DEFAULT_JAIL_MEMORY
from chiasma.model.generated import unapproved_in
from chiasma.model.multimodal import ModelSpec, MultimodalModel

BATCH_SECONDS = 60.0


class GeneratedAnswerError(ChiasmaError):
    """A generated module gave no answer that counts: it failed, took too long, or returned no numbers."""


class JailedModel(nn.Module):
    """Answers each batch from a fresh child of the jail, on the CPU; it cannot be trained, compiled or exported.

    Args:
        spec: The architecture.
        signature: What its inputs look like.
        weights: Of a training.
        jail: None for the process's own.
        accept_lesser: Answer although a guarantee of the jail does not hold on this machine.
    """

    def __init__(
        self,
        spec: ModelSpec,
        signature: Signature,
        weights: Mapping[str, Tensor],
        *,
        jail: Jail | None = None,
        accept_lesser: bool = False,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.signature = signature
        self.weights = dict(weights)
        # Who asks a model for its device asks its first parameter.
        self.place = nn.Parameter(torch.zeros(0), requires_grad=False)
        self._jail = jail or shared_jail(accept_lesser=accept_lesser)
        self._shared = SharedArray.holding(np.frombuffer(safetensors.torch.save(self.weights), np.uint8))

    def forward(self, batch: Batch) -> Output:
        """Return the output of each row.

        Raises:
            GeneratedAnswerError: The module gave no answer that counts.
            JailError: The jail cannot be closed on this machine.
        """
        used = {name: batch.inputs[name] for name in self.spec.encoders}
        read = Batch(used, {name: batch.present[name] for name in used}, batch.ids)
        ended = self._jail.run(
            f"{WORK}:answer",
            {"model": self.spec.to_dict(), "signature": self.signature.to_dict(), "modalities": sorted(used)},
            inputs={**batch_arrays(read), WEIGHTS: self._shared},
            outputs={LOGITS: Region.of("f4", len(batch), self.signature.target.outputs)},
            limits=Limits(wall_seconds=BATCH_SECONDS, memory_bytes=DEFAULT_JAIL_MEMORY),
        )
        refused = refusal_of(ended)
        if refused is not None:
            raise GeneratedAnswerError(f"The generated module gave no answer: {refused.reason}.")
        logits = ended.outputs[LOGITS]
        if not np.isfinite(logits).all():
            raise GeneratedAnswerError("The generated module's answer holds a NaN or an infinity.")
        return Output(torch.as_tensor(logits.copy()))


def trained_model(
    spec: ModelSpec, signature: Signature, weights: Mapping[str, Tensor], *, accept_lesser: bool = False
) -> MultimodalModel | JailedModel:
    """Return a trained model: built in this process where all its source may run here, else answering from the jail.

    Args:
        spec: The architecture.
        signature: What its inputs look like.
        weights: Of a training.
        accept_lesser: As in :class:`JailedModel`.

    Raises:
        RuntimeError: The weights do not fit the architecture.
    """
    if unapproved_in(spec):
        return JailedModel(spec, signature, weights, accept_lesser=accept_lesser)
    model = spec.build(signature)
    model.load_state_dict(weights, strict=True)
    return model


def weights_of(model: MultimodalModel | JailedModel) -> Mapping[str, Tensor]:
    """Return a model's weights, wherever it runs."""
    return model.weights if isinstance(model, JailedModel) else model.state_dict()
