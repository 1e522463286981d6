"""``search fusion``: compose fusions of images and texts, or have a language model write them."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from chiasma.core.errors import ConfigError
from chiasma.core.spec import replace_at
from chiasma.data.signature import Signature
from chiasma.experiment import part_search
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import Console
from chiasma.experiment.design_words import fusion_words
from chiasma.experiment.front import Described
from chiasma.experiment.fusing import fusion_proposer, proposing, proposing_words
from chiasma.experiment.mechanism import with_slot
from chiasma.experiment.part_result import SearchResult
from chiasma.experiment.searched_part import SearchedPart
from chiasma.experiment.setting import CONTROL, Setting
from chiasma.experiment.writers import FUSION, Answers, with_writer
from chiasma.model.fusion import Composed, Concat, CrossAttention, FusionSpec
from chiasma.model.fusion.composed.known import known_fusion_as
from chiasma.model.multimodal import FUSED
from chiasma.search.fusion_space import SLOT, FusionSpace
from chiasma.search.protocols import Proposer
from chiasma.search.random_search import RandomSearch
from chiasma.train.design import Design

PROPOSERS = (FUSION, CONTROL)


class FusionPart(SearchedPart):
    """The fusion of images and texts.

    Args:
        own: The fusion of the settings.
    """

    def __init__(self, own: FusionSpec) -> None:
        self.path = SLOT
        self.standard = "concat"
        self.own = own
        self._proposers: dict[str, Proposer[Any]] = {}
        self._answers: Answers | None = None

    def baselines(self, base: Design) -> Mapping[str, tuple[Design, str]]:
        """Return concatenation, hand-written cross-attention, and the fusion of the settings where it is another."""
        found: dict[str, tuple[FusionSpec, str]] = {
            "concat": (Concat(hidden=base.model.dim), "means side by side and a hidden layer"),
            "cross_attention": (CrossAttention(), "hand-written cross-attention"),
        }
        if self.own not in [fusion for fusion, _ in found.values()]:
            found["settings"] = (self.own, "the fusion of the settings")
        return {name: (replace_at(base, SLOT, fusion), words) for name, (fusion, words) in found.items()}

    def proposers(self, setting: Setting, base: Design) -> dict[str, Proposer[Any]]:
        """Return the closed loop, and its control, which draws from the grammar and learns nothing."""
        space = FusionSpace()
        self._answers = setting.answers
        control = RandomSearch(space, seed=setting.config.run.seed, name=CONTROL, base=base, behaviour=space.behaviour)
        self._proposers = {FUSION: fusion_proposer(setting, base=base), CONTROL: control}
        return self._proposers

    def describe(self, design: Design) -> Described:
        """Return the formula of a composed fusion, and of another what it is called."""
        fusion = design.model.fusion
        assert fusion is not None
        known = known_fusion_as(fusion) if isinstance(fusion, Composed) else None
        return Described(
            formula=fusion_words(fusion), known="" if known is None else known.words, part=fusion.to_dict()
        )

    def proposing(self) -> Mapping[str, Any]:
        """Return what the policy tried, and what the grammar and a language model made of it."""
        return proposing(self._proposers, self._answers)

    def progress(self) -> str:
        """Return who made how many candidates, and what a language model cost."""
        return proposing_words(self._proposers, self._answers)

    def around(self, base: Design) -> str:
        """Return nothing: a fusion needs no other setting to be named."""
        del base
        return ""


def search_fusion(
    config: RunConfig, *, console: Console, command: Sequence[str] = (), started: float | None = None
) -> SearchResult:
    """Search for fusions within a budget.

    Args:
        config: Everything the run is told.
        console: Where progress goes, and whether the user wants to stop.
        command: The command line, for the provenance.
        started: From when the budget counts (``time.monotonic()``); None for now.

    Raises:
        ChiasmaError: The data or a setting cannot be used, such as a language model without a name; nothing has been
            trained.
    """
    part_search.check_proposers(config, "fusions", PROPOSERS)
    return part_search.start(_place, with_writer(config), console=console, command=command, started=started)


def _place(config: RunConfig, signature: Signature) -> tuple[RunConfig, SearchedPart]:
    """Return the settings with encoders that hand on every token, which all fusions are compared on, and the fusion."""
    settled = around_fusion(config, signature)
    assert settled.model.fusion is not None
    return settled, FusionPart(settled.model.fusion)


def around_fusion(config: RunConfig, signature: Signature) -> RunConfig:
    """Return the settings of a search for a fusion: its encoders hand on every token, and nothing is left to choose.

    Raises:
        ConfigError: The data have only one modality.
    """
    if not all(name in signature.inputs for name in FUSED):
        there = ", ".join(signature.inputs)
        raise ConfigError(f"search.slot: a fusion needs images and texts, but the data have only {there}.")
    model = config.model.model_copy(update={"fusion": CrossAttention()}).complete(signature)
    own = config.model.fusion or Concat(hidden=model.dim)
    return with_slot(config, replace_at(model, "fusion", own), SLOT, signature)


resume = partial(part_search.resume, _place)
"""Continue an interrupted or killed search to the front that it would have had; arguments as in ``evolve``."""
