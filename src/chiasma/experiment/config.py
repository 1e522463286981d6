"""The one typed tree of settings. A run stores it, resolved, as ``config.json``; only this layer holds it."""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from chiasma.core.errors import ConfigError
from chiasma.core.spec import Spec
from chiasma.data.manifest import DataSpec
from chiasma.data.signature import Signature
from chiasma.experiment.checks import CheckRules
from chiasma.experiment.tracking_settings import TrackingSection
from chiasma.model.encoders import EncoderSpec, Pretrained, usual_encoder
from chiasma.model.fusion import FusionSpec, Multiplicative, ViLBERT
from chiasma.model.heads import Classification, Contrastive, HeadSpec, Multilabel, Multitask, Regression
from chiasma.model.multimodal import ModelSpec
from chiasma.model.trunk import TrunkSpec
from chiasma.model.vilbert_weights import found
from chiasma.model.whole import ModelPlugin
from chiasma.search.fusion_rewards import RewardRules
from chiasma.search.generators.settings import LanguageModel
from chiasma.train.compiling import check_compiled
from chiasma.train.controlling import ControllerSpec
from chiasma.train.design import Design, GrowthSpec, LoopSpec, OptimSpec, TrainingSpec

HIDDEN = 128
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION = re.compile(r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s)?")


class Budget(Spec):
    """What a search may spend: time, or a number of trials. Written ``10m``, ``90s``, ``1h30m`` or ``200`` (trials).

    Attributes:
        seconds: Wall time from start to report; None where trials are counted.
        trials: Trainings of candidates; None where time is counted. Only then is a run repeatable bit for bit.
    """

    seconds: float | None = Field(default=None, gt=0)
    trials: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return _parse_budget(value) if isinstance(value, str | int | float) else value

    @model_validator(mode="after")
    def _exactly_one(self) -> "Budget":
        if (self.seconds is None) == (self.trials is None):
            raise ValueError(
                f"a budget has either seconds or trials, but seconds={self.seconds} and trials={self.trials}"
            )
        return self

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Return the budget that a user wrote.

        Raises:
            ConfigError: The text is neither a duration nor a positive whole number.
        """
        try:
            return cls(**_parse_budget(text))
        except ValueError as error:
            raise ConfigError(f"--budget: {error}") from None

    @property
    def words(self) -> str:
        """Return the budget as a reader says it: ``10 minutes``, ``200 trials``."""
        if self.trials is not None:
            return f"{self.trials} trial{'s' if self.trials != 1 else ''}"
        seconds = self.seconds or 0.0
        for unit, name in (("h", "hour"), ("m", "minute"), ("s", "second")):
            if seconds >= _SECONDS[unit] or unit == "s":
                amount = seconds / _SECONDS[unit]
                return f"{amount:g} {name}{'s' if amount != 1 else ''}"
        raise AssertionError("unreachable")


def _parse_budget(value: str | float) -> dict[str, Any]:
    text = str(value).strip().lower()
    if re.fullmatch(r"\d+", text) and int(text) > 0:
        return {"trials": int(text)}
    match = _DURATION.fullmatch(text)
    seconds = (
        sum(float(amount) * _SECONDS[unit] for unit, amount in match.groupdict().items() if amount) if match else 0
    )
    if seconds <= 0:
        raise ValueError(
            f"a budget is a time such as 90s, 10m or 1h30m, or a number of trials such as 200, but got {value!r}"
        )
    return {"seconds": seconds}


class ModelSection(Spec):
    """The architecture; what is left out is chosen for the data.

    Attributes:
        dim: Width D of every token.
        encoders: By modality (``image``, ``text``). A modality not named gets what suits its kind of input and the
            fusion; ``null`` leaves the modality out.
        fusion: How two modalities meet; None is multiplicative. Ignored where one modality is used.
        trunk: Members that change the fused tokens; None leaves them as they are.
        head: None is the head of the data's task, with one hidden layer of 128.
        whole: A third party's model in place of encoders, fusion, trunk and head.
    """

    dim: int = Field(default=64, ge=1)
    encoders: Mapping[str, EncoderSpec | None] = {}
    fusion: FusionSpec | None = None
    trunk: TrunkSpec | None = None
    head: HeadSpec | None = None
    whole: ModelPlugin | None = None

    def complete(self, signature: Signature) -> ModelSpec:
        """Return the whole architecture for one dataset.

        Raises:
            ConfigError: An encoder is named for a modality that the data does not have, none is left, or parts do not
                go together.
        """
        if self.whole is not None:
            parts = {"dim": self.dim, "head": self.head or default_head(signature), "whole": self.whole}
            return ModelSpec.from_dict(parts, where="model")
        for modality, encoder in self.encoders.items():
            if encoder is not None and modality not in signature.inputs:
                raise ConfigError(
                    f"model.encoders.{modality}: the data has no such modality, only {', '.join(signature.inputs)}. "
                    f"Leave it out with --set model.encoders.{modality}=null."
                )
        read = [name for name in signature.inputs if self.encoders.get(name, True) is not None]
        every = len(read) > 1 and self.fusion is not None and self.fusion.every_token
        usual = {name: usual_encoder(spec, every_token=every) for name, spec in signature.inputs.items()}
        chosen = {name: self.encoders.get(name, encoder) for name, encoder in usual.items()}
        encoders = {name: _known(name, encoder) for name, encoder in chosen.items() if encoder is not None}
        if not encoders:
            raise ConfigError(f"model.encoders: all modalities of the data are left out: {', '.join(chosen)}.")
        head = self.head or default_head(signature)
        mixing = None if head.kind == "contrastive" else Multiplicative()
        fusion = _known_fusion(self.fusion or mixing, self.dim) if len(encoders) > 1 else None
        parts = {"dim": self.dim, "encoders": encoders, "fusion": fusion, "trunk": self.trunk, "head": head}
        return ModelSpec.from_dict(parts, where="model")


class SearchSection(Spec):
    """How candidates are proposed.

    Attributes:
        proposers: Who proposes in ``evolve``: ``random`` draws designs from the whole space and is the control;
            ``local`` edits one part of a good design; ``attention`` breeds the attention mechanisms of good designs;
            ``growth`` gives good designs a trunk that grows while it trains, and edits its rules; ``fusion`` composes
            fusions for good designs, or has a language model write them. ``search attention`` has only ``random`` and
            ``attention``, ``search fusion`` only ``random`` and ``fusion``.
        slot: Where ``search attention`` looks for a mechanism: ``image.attention``, ``text.attention`` or
            ``fusion.attention``; None is the fusion of two modalities, or the only encoder. ``fusion`` is the place of
            ``search fusion``.
        population: Parents that survive where mechanisms are bred.
        crossover: How often a mechanism is bred from two parents rather than one.
        limits: The most of an objective that a mechanism of ``search attention`` may cost, such as ``flops: 2e6``;
            beyond is infeasible.
        known_mechanisms: Mechanisms that the literature knows are founders and mates of those that are bred; without
            them everything is bred from standard attention.
        generation: Candidates that are asked for, trained and compared together; fewer where a time budget allows few.
        warm_start: A child begins with the weights of its parent, wherever name and shape agree, so that it is
            trained on rather than anew. Finals and the judging on fresh seeds always begin from scratch.
        confirm: What reaches the front of a search for mechanisms is trained on a second seed, one mechanism in each
            generation, so that luck alone does not breed.
        floor_share: Part of the candidates that the control always gets, however well others do.
        generator: Who writes fusions: the ``grammar`` composes typed trees; ``openai`` asks a server that speaks
            OpenAI's language; ``transformers`` asks a model in a folder; ``replay`` gives the answers of an earlier
            run again. What a language model does not give, the grammar does.
        replay: The run whose answers ``replay`` gives again, its name or folder.
        policy: What decides how the next fusion is made: an actor-critic that learns from rewards, a bandit that
            learns each factor by itself, or even chances.
        reward: What a fusion is worth to the policy.
    """

    proposers: tuple[Literal["random", "local", "attention", "growth", "fusion"], ...] = Field(
        default=("random", "local", "attention", "fusion"), min_length=1
    )
    slot: Literal["image.attention", "text.attention", "fusion.attention", "fusion"] | None = None
    population: int = Field(default=24, ge=2)
    crossover: float = Field(default=0.4, ge=0, le=1)
    limits: Mapping[Literal["error", "flops", "parameters", "latency"], Annotated[float, Field(gt=0)]] = {}
    known_mechanisms: bool = True
    generation: int = Field(default=9, ge=1)
    warm_start: bool = False
    confirm: bool = True
    floor_share: float = Field(default=0.2, ge=0, le=1)
    generator: Literal["grammar", "openai", "transformers", "replay"] = "grammar"
    replay: str | None = Field(default=None, min_length=1)
    policy: Literal["actor_critic", "bandit", "uniform"] = "actor_critic"
    reward: RewardRules = RewardRules()

    @model_validator(mode="after")
    def _something_to_replay(self) -> "SearchSection":
        if (self.generator == "replay") != (self.replay is not None):
            raise ValueError(
                "generator=replay and replay=RUN need each other, but "
                f"generator={self.generator} and replay={self.replay}"
            )
        return self

    @field_validator("proposers")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"each proposer is named once, but got {', '.join(value)}")
        return value


class EvaluateSection(Spec):
    """How candidates and floors are compared.

    Attributes:
        metric: What is maximised (or minimised, by its nature): ``accuracy``, ``balanced_accuracy``, ``f1_macro``,
            ``auroc``, ``log_loss``, ... None is the usual one of the task.
        objectives: What is minimised together; ``error`` comes from the metric and decides who is promoted and wins,
            the front of them all is what designs are built on.
        rungs: Parts of the full training after which candidates are compared, rising to 1.
        eta: Of each rung's candidates, one in ``eta`` is trained on.
        fewest_examples: Under a budget of time, rungs that train on fewer examples than this are left out: too short
            to tell.
        finalists: Candidates trained again on fresh seeds, from which the winner comes.
        seeds: Fresh seeds for each finalist and each floor that is trained.
        level: Level of every interval.
        resamples: Bootstrap resamples of every interval.
        checks: What is asked of predictions, here and wherever the saved model predicts.
        max_parameters: Designs with more parameters are rejected; None for no limit.
        accept_lesser_jail: Run generated source that nobody has approved also where this machine cannot enforce every
            guarantee of the jail (``chiasma doctor``); what is missing stands in every trial's record and the report.
        jail_seconds: What one training in the jail may take, beside the limits that all candidates have. None: in
            ``train`` as long as it takes (Ctrl-C hands back the best so far), elsewhere an hour, or ``run.budget``
            where that is longer. In ``train`` it ends with the best so far, elsewhere it is rejected.
        jail_gib: Memory that one training in the jail may use beyond the data, in GiB. None: half of the machine's,
            in equal parts for ``run.workers``.
    """

    metric: str | None = None
    objectives: tuple[Literal["error", "flops", "parameters", "latency"], ...] = Field(
        default=("error", "flops"), min_length=1
    )
    rungs: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(0.1, 0.3, 1.0), min_length=1)
    eta: float = Field(default=3.0, gt=1)
    fewest_examples: int = Field(default=15_000, ge=1)
    finalists: int = Field(default=3, ge=1)
    seeds: int = Field(default=3, ge=1)
    level: float = Field(default=0.95, gt=0.5, lt=1)
    resamples: int = Field(default=2000, ge=100)
    checks: CheckRules = CheckRules()
    max_parameters: int | None = Field(default=None, ge=1)
    accept_lesser_jail: bool = False
    jail_seconds: float | None = Field(default=None, gt=0)
    jail_gib: float | None = Field(default=None, ge=0.1)

    @field_validator("rungs")
    @classmethod
    def _rising_to_one(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value[-1] != 1 or list(value) != sorted(set(value)):
            raise ValueError(f"rungs must rise to 1, but got {', '.join(f'{part:g}' for part in value)}")
        return value

    @field_validator("objectives")
    @classmethod
    def _error_first(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value[0] != "error" or len(set(value)) != len(value):
            raise ValueError(f"objectives start with error and name each once, but got {', '.join(value)}")
        return value


class RunSection(Spec):
    """Where and how a run happens.

    Attributes:
        seed: All randomness follows from it.
        folder: Folder that holds the runs; None is ``$CHIASMA_RUNS`` or ``runs`` in the working directory.
        name: A word for this run that becomes a part of its id; None for none.
        device: ``auto`` takes an accelerator where there is one.
        precision: Arithmetic of the forward pass; weights stay float32.
        compile: Translate models for the device before their first step (``torch.compile``): often minutes, faster
            steps afterwards. It pays for long trainings of one design; each birth, promotion or prune of a growing
            trunk translates again. A controller that sets dropout or gates excludes it.
        workers: Worker processes that train candidates, one thread each.
        executor: Where they run: ``local`` on this machine; ``ray`` on Ray, which must be installed.
        ray_address: The Ray cluster to join, ``host:port`` or ``auto``; None starts Ray on this machine. Every node
            must see the working directory, the run's folder and the cache at the same path.
        budget: What the search may spend: ``10m``, ``1h``, or a number of trials such as ``200``.
        usd: Most dollars that a language model may cost the run; None for no limit. Needs ``llm.prices``.
        cache: Folder for prepared data; None is ``$CHIASMA_CACHE`` or ``~/.cache/chiasma``.
    """

    seed: int = Field(default=0, ge=0, lt=2**63)
    folder: str | None = None
    name: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    workers: int = Field(default=2, ge=1, le=256)
    executor: Literal["local", "ray"] = "local"
    ray_address: str | None = Field(default=None, min_length=1)
    budget: Budget = Budget(seconds=600)
    usd: float | None = Field(default=None, ge=0)
    cache: str | None = None

    @model_validator(mode="after")
    def _address_for_ray(self) -> "RunSection":
        if self.ray_address is not None and self.executor != "ray":
            raise ValueError(f"ray_address={self.ray_address} needs executor=ray, but executor={self.executor}")
        return self


class RunConfig(Spec):
    """Everything a run can be told.

    Attributes:
        data: What to learn from, and how it is cleaned and split.
        model: The architecture that ``train`` trains and that ``evolve`` starts from.
        optim: Optimiser and learning-rate schedule.
        train: The training loop. ``evolve`` chooses ``epochs`` by itself while it has its default.
        growth: How the trunk's members come and go while it trains; None leaves them as they are.
        controller: What adapts the training while it runs; None leaves it as it is.
        search: How candidates are proposed.
        llm: The language model that writes fusions, where ``search.generator`` asks one.
        evaluate: How candidates and floors are compared.
        tracking: Other programs in which a training is shown.
        run: Where and how the run happens.
    """

    data: DataSpec = DataSpec()
    model: ModelSection = ModelSection()
    optim: OptimSpec = OptimSpec()
    train: LoopSpec = LoopSpec()
    growth: GrowthSpec | None = None
    controller: ControllerSpec | None = None
    search: SearchSection = SearchSection()
    llm: LanguageModel = LanguageModel()
    evaluate: EvaluateSection = EvaluateSection()
    tracking: TrackingSection = TrackingSection()
    run: RunSection = RunSection()

    @model_validator(mode="after")
    def _can_be_compiled(self) -> "RunConfig":
        if self.run.compile:
            check_compiled(self.controller)
        return self

    def design(self, signature: Signature) -> Design:
        """Return the design that these settings describe for one dataset.

        Raises:
            ConfigError: The model section names a modality that the data does not have, or parts do not go together.
        """
        # As from a file, not by keyword: parts that do not go together are then an error in our own words.
        parts = {"optim": self.optim, "loop": self.train, "growth": self.growth, "controller": self.controller}
        training = TrainingSpec.from_dict(parts, where="settings")
        return Design.from_dict({"model": self.model.complete(signature), "training": training}, where="settings")


def _known(modality: str, encoder: Any) -> Any:
    """Return an encoder's spec; of a pretrained one with what is found under its name, so that it can be built."""
    if not isinstance(encoder, Pretrained):
        return encoder
    return encoder.found("text" if modality == "text" else "image")


def _known_fusion(fusion: Any, dim: int) -> Any:
    """Return a fusion's spec; of a ViLBERT that begins with published weights with the hash of those."""
    return found(fusion, dim) if isinstance(fusion, ViLBERT) else fusion


def default_design(signature: Signature) -> Design:
    """Return a design that suits any dataset of this signature: what ``chiasma train`` trains without settings."""
    return RunConfig().design(signature)


def default_head(signature: Signature) -> HeadSpec:
    """Return the head of the data's task."""
    heads: dict[str, Callable[..., HeadSpec]] = {
        "classification": Classification,
        "multilabel": Multilabel,
        "regression": Regression,
        "multitask": Multitask,
        "contrastive": Contrastive,
    }
    return heads[signature.target.task](hidden=HIDDEN)
