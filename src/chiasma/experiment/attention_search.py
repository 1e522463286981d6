"""``search attention``: breed mechanisms for one slot of an encoder or a fusion."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from chiasma.core.errors import ConfigError
from chiasma.core.spec import value_at
from chiasma.data.signature import Signature
from chiasma.experiment import part_search
from chiasma.experiment.config import RunConfig
from chiasma.experiment.console import Console
from chiasma.experiment.front import Described
from chiasma.experiment.mechanism import around_slot, baselines, slot_path
from chiasma.experiment.part_result import SearchResult
from chiasma.experiment.searched_part import SearchedPart
from chiasma.experiment.setting import CONTROL, Setting
from chiasma.experiment.stages import breeding_rules
from chiasma.model.attention import Mean
from chiasma.model.slot_cost import SlotCosts
from chiasma.search.attention_space import AttentionSpace, attention_slots
from chiasma.search.nsga2 import NSGA2
from chiasma.search.protocols import Proposer
from chiasma.search.random_search import RandomSearch
from chiasma.train.design import Design

PROPOSERS = ("attention", CONTROL)


class AttentionPart(SearchedPart):
    """The attention of one slot.

    Args:
        path: Its dotted path.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.standard = "standard"
        self.matters = ("standard", "mean")

    def baselines(self, base: Design) -> Mapping[str, tuple[Design, str]]:
        """Return standard attention, and the mean of the values."""
        return baselines(base, self.path)

    def proposers(self, setting: Setting, base: Design) -> dict[str, Proposer[Any]]:
        """Return the breeder and its control, both of which know the FLOPs of a design before it is trained."""
        crossed = attention_slots(base)[self.path] or any(each.crossed for each in setting.companions)
        space = AttentionSpace(self.path, crossed=crossed)
        part = self.path.removeprefix("model.").removesuffix(".attention")
        slot_costs = SlotCosts(base.model, part, setting.dataset.signature)

        def costs(design: Design) -> dict[str, float]:
            found = slot_costs(space.at(design))
            return {"flops": found.flops, "parameters": float(found.parameters)}

        config = setting.config
        nsga2 = NSGA2(
            seed=config.run.seed,
            base=base,
            slot=self.path,
            crossed=crossed,
            rules=breeding_rules(setting),
            costs=costs,
        )
        control = RandomSearch(
            space,
            seed=config.run.seed,
            name=CONTROL,
            base=base,
            behaviour=space.behaviour,
            seen=nsga2.seen,
            excess=nsga2.known_excess,
        )
        return {"attention": nsga2, CONTROL: control}

    def describe(self, design: Design) -> Described:
        """Return the formula."""
        if isinstance(value_at(design, self.path), Mean):
            return Described(formula="mean(v)", part=Mean().to_dict())
        # Whether two sequences meet in the slot says who may stand there, not how it reads.
        attention = AttentionSpace(self.path, crossed=False).at(design)
        return Described(formula=attention.words, known=attention.known, part=attention.to_dict())

    def proposing(self) -> Mapping[str, Any]:
        """Return nothing: the breeder's refusals and duplicates are counted for every search."""
        return {}

    def progress(self) -> str:
        """Return nothing."""
        return ""

    def around(self, base: Design) -> str:
        """Return the kind of the encoder or fusion: without it no attention could be named."""
        owner = self.path.removesuffix(".attention")
        return f"{owner}.kind={value_at(base, owner).kind}"


def search_attention(
    config: RunConfig,
    *,
    also: Mapping[str, RunConfig] | None = None,
    console: Console,
    command: Sequence[str] = (),
    started: float | None = None,
) -> SearchResult:
    """Search for attention mechanisms for one slot within a budget.

    Args:
        config: Everything the run is told; ``search.slot`` names the slot.
        also: Settings of further tasks by name: every mechanism is trained on them too, and its error on each is an
            objective of its own.
        console: Where progress goes, and whether the user wants to stop.
        command: The command line, for the provenance.
        started: From when the budget counts (``time.monotonic()``); None for now.

    Raises:
        ChiasmaError: The data, the slot or a setting cannot be used; nothing has been trained.
    """
    part_search.check_proposers(config, "mechanisms", PROPOSERS)
    asked = {"search.generator": config.search.generator != "grammar", "run.usd": config.run.usd is not None}
    for name, here in asked.items():
        if here:
            raise ConfigError(f"{name}: no language model writes attention mechanisms, only fusions: search fusion.")
    return part_search.start(_place, config, also=also, console=console, command=command, started=started)


def _place(config: RunConfig, signature: Signature) -> tuple[RunConfig, SearchedPart]:
    """Return the settings with a model that has the slot, and the slot."""
    path = slot_path(config, signature)
    return around_slot(config, signature), AttentionPart(path)


resume = partial(part_search.resume, _place)
"""Continue an interrupted or killed search to the front that it would have had; arguments as in ``evolve``."""
