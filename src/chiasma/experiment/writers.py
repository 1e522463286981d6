"""The language model that writes fusions in a run, and where its answers lie."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from chiasma.core.errors import ConfigError
from chiasma.core.spec import replace_at
from chiasma.evaluate.jailed_check import fault_in
from chiasma.evaluate.jailed_trial import shared_jail
from chiasma.experiment.config import RunConfig
from chiasma.experiment.driver import decisions_of
from chiasma.model.fusion import Composed, Generated
from chiasma.model.tokens import with_open_encoders
from chiasma.search.bridge import Bridge, Limits
from chiasma.search.fusion_space import FusionSpace
from chiasma.search.fusion_writer import FusionWriter
from chiasma.search.generators.choosing import build_generator
from chiasma.search.generators.settings import LanguageModel
from chiasma.search.generators.store import AnswerStore
from chiasma.store.folders import find_run
from chiasma.store.run import RunStore
from chiasma.train.design import Design

ANSWERS_FILE = "answers.db"
FUSION = "fusion"


@dataclass(frozen=True)
class Answers:
    """What a language model has answered.

    Attributes:
        own: In this run.
        recorded: In the run that this one repeats; None where it repeats none.
        priced: What it costs is known: nothing is charged, or ``llm.prices`` are given.
    """

    own: AnswerStore
    recorded: AnswerStore | None = None
    priced: bool = True

    def spent(self) -> dict[str, Any]:
        """Return what all calls came to, as JSON for a report; dollars are None where prices are not known."""
        costs = self.own.costs()
        tokens = costs.prompt_tokens + costs.answer_tokens
        return {"dollars": costs.dollars if self.priced else None, "tokens": tokens, "calls": dict(costs.calls)}


def with_writer(config: RunConfig) -> RunConfig:
    """Return the settings with the language model that is asked; a replay asks as the recorded run did.

    Raises:
        ConfigError: No language model could be asked with these settings; names the one. Nothing has been trained.
        JailError: What it writes could not be run on this machine.
    """
    generator, dollars = config.search.generator, config.run.usd
    if generator != "grammar" and FUSION not in config.search.proposers:
        raise ConfigError(
            f"search.generator: {generator} writes for the proposer {FUSION}, but search.proposers names only "
            f"{', '.join(config.search.proposers)}."
        )
    if generator == "replay":
        assert config.search.replay is not None
        # Where it lies now: once this run has begun, "latest" would be this one.
        recorded = _recorded(config.search.replay, config.run.folder).absolute()
        with RunStore.open(recorded) as store:
            asked, seed = LanguageModel.from_dict(store.config["llm"], where="llm"), store.config["run"]["seed"]
        _check_repeats(config, asked, seed=seed)
        search = config.search.model_copy(update={"replay": str(recorded)})
        config = config.model_copy(update={"llm": asked, "search": search})
    if generator != "openai" and dollars is not None:
        raise ConfigError(f"run.usd: {generator} costs nothing; a limit on dollars needs search.generator=openai.")
    if generator == "transformers":
        from chiasma.search.generators.transformers import folder_of

        folder_of(config.llm)
    elif generator == "openai":
        from chiasma.search.generators.exchange import Exchange, key_of

        Exchange(config.llm, key_of(config.llm, dict(os.environ)))
        config.llm.check_cap(dollars)
    if generator != "grammar" and config.llm.form == "code":
        # Nothing is trained, and no answer is paid for, where the jail cannot be closed.
        shared_jail(accept_lesser=config.evaluate.accept_lesser_jail).start()
    return config


def _check_repeats(config: RunConfig, asked: LanguageModel, *, seed: int) -> None:
    """Refuse settings of a replay under which the recorded run would not have asked what it asked.

    Raises:
        ConfigError: Names the setting, and both values.
    """
    own, usual, recorded = config.llm.to_dict(), LanguageModel().to_dict(), asked.to_dict()
    for name, value in own.items():
        if value != usual[name] and value != recorded[name]:
            raise ConfigError(
                f"llm.{name}: a replay asks as the recorded run did, with {recorded[name]!r}, but got {value!r}."
            )
    if config.run.seed != seed:
        raise ConfigError(
            f"run.seed: a replay asks what the recorded run asked, with seed {seed}, but got {config.run.seed}."
        )


@contextmanager
def open_answers(config: RunConfig, run: Path) -> Iterator[Answers | None]:
    """Open what a language model has answered in a run, and in one that it repeats; None where none is asked.

    Raises:
        ConfigError: The run to repeat is missing.
    """
    if config.search.generator == "grammar":
        yield None
        return
    repeated = config.search.replay
    with (
        AnswerStore(run / ANSWERS_FILE) as own,
        nullcontext()
        if repeated is None
        else AnswerStore(_recorded(repeated, config.run.folder) / ANSWERS_FILE) as recorded,
    ):
        yield Answers(own, recorded, priced=config.search.generator != "openai" or config.llm.prices.known)


def recorded_decisions(config: RunConfig) -> Mapping[str, Mapping[str, Any]]:
    """Return what the run that is repeated decided, by name; nothing where none is.

    Raises:
        ConfigError: That run is missing.
    """
    if config.search.replay is None:
        return {}
    with RunStore.open(_recorded(config.search.replay, config.run.folder)) as store:
        return decisions_of(store)


def make_writer(config: RunConfig, answers: Answers, *, tell: Callable[[str], None]) -> FusionWriter | None:
    """Return who writes fusions; None where the grammar does.

    Args:
        config: Names the generator and the model.
        answers: Where answers are kept, so that none is asked for twice.
        tell: Is told why the model is not asked any more.

    Raises:
        ConfigError: The key or the model is missing.
    """
    kind = config.search.generator
    if kind == "grammar":
        return None
    generator = build_generator(kind, config.llm, answers.own, cap=config.run.usd, recorded=answers.recorded, tell=tell)
    penalised = tuple(config.search.reward.penalties)
    schema = Composed.model_json_schema() if config.llm.form == "json" else None
    bridge = Bridge(config.llm.form, limits=Limits(penalised=penalised), schema=schema)
    return FusionWriter(
        generator,
        bridge,
        settings=config.llm,
        make=made,
        examine=partial(fault_in, accept_lesser=config.evaluate.accept_lesser_jail),
        keep=answers.own.add_conversation,
    )


def made(written: str | Mapping[str, Any], base: Design) -> Design:
    """Return a design with what a language model wrote as its fusion: source, or a tree."""
    if not isinstance(written, str):
        return FusionSpace().lower(Composed.from_dict(written, where="fusion"), base)
    model, _ = with_open_encoders(replace_at(base.model, "fusion", Generated(source=written)))
    return Design(model=model, training=base.training)


def _recorded(run: str, run_folder: str | None) -> Path:
    """Return the folder of a run whose language model's answers are on disk."""
    folder = find_run(run, Path(run_folder).expanduser() if run_folder else None)
    if not (folder / ANSWERS_FILE).is_file():
        raise ConfigError(f"search.replay: {folder.name} recorded no answers of a language model.")
    return folder
