"""Frozen values: replaced by path, equal exactly when their hashes are, and refused with a useful line."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from chiasma.core.errors import ConfigError
from chiasma.core.spec import Spec, canonical_json, replace_at, value_at


class Dot(Spec):
    kind: Literal["dot"] = "dot"
    scale: float = Field(1.0, gt=0)


class Bilinear(Spec):
    kind: Literal["bilinear"] = "bilinear"
    rank: int = Field(4, ge=1)


Attention = Annotated[Dot | Bilinear, Field(discriminator="kind")]


class Encoder(Spec):
    heads: int = Field(2, ge=1)
    attention: Attention = Dot()
    widths: tuple[int, ...] = (8, 16)


class Model(Spec):
    dim: int = 8
    encoders: Mapping[str, Encoder] = {}
    stages: tuple[Attention, ...] = ()
    fusion: Attention | None = None
    activation: Literal["gelu", "relu"] = "gelu"

    @model_validator(mode="after")
    def _even(self) -> "Model":
        if self.dim % 2:
            raise ValueError(f"dim must be even, but dim={self.dim}")
        return self


MODEL = Model(encoders={"image": Encoder(attention=Bilinear()), "text": Encoder()}, stages=(Dot(), Bilinear()))


def test_a_spec_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        MODEL.dim = 4  # pyright: ignore[reportAttributeAccessIssue]


def test_a_spec_survives_json():
    assert Model.from_json(MODEL.to_json()) == MODEL


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("dim", 16),
        ("encoders.image.heads", 4),
        ("encoders.image.attention", Dot(scale=2.0)),
        ("encoders.image.attention.rank", 9),
        ("encoders.text.widths.1", 32),
        ("stages.0", Bilinear(rank=2)),
        ("stages.1.rank", 3),
        ("fusion", Dot()),
        ("encoders.text", Encoder(heads=8)),
    ],
)
def test_a_value_is_replaced_at_a_path_and_nowhere_else(path: str, value: Any):
    changed = replace_at(MODEL, path, value)
    assert value_at(changed, path) == value
    assert replace_at(changed, path, value_at(MODEL, path)) == MODEL


def test_a_spec_can_be_replaced_by_plain_json():
    changed = replace_at(MODEL, "encoders.image.attention", {"kind": "dot", "scale": 3})
    assert value_at(changed, "encoders.image.attention") == Dot(scale=3.0)


def test_replacing_leaves_the_original_alone():
    before = MODEL.to_json()
    replace_at(MODEL, "encoders.image.heads", 7)
    assert MODEL.to_json() == before


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("dmi", "dmi: unknown key. Did you mean 'dim'? Known here: dim, encoders, stages, fusion, activation."),
        ("encoders.imag", "encoders.imag: unknown key. Did you mean 'image'? Known here: image, text."),
        ("encoders.image.attention.scale", "unknown key. Known here: kind, rank."),
        ("stages.2", "stages.2: unknown key. Known here: 0, 1."),
        ("stages.-1", "stages.-1: unknown key."),
        ("dim.x", "dim.x: unknown key. Known here: nothing."),
    ],
)
def test_a_path_that_does_not_exist_is_refused_with_the_nearest_name(path: str, message: str):
    with pytest.raises(ConfigError) as caught:
        replace_at(MODEL, path, 1)
    assert message in str(caught.value)
    with pytest.raises(ConfigError):
        value_at(MODEL, path)


def test_a_replacement_is_validated_as_a_whole():
    with pytest.raises(ConfigError, match=r"^Model: dim must be even, but dim=7\.$"):
        replace_at(MODEL, "dim", 7)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dmi": 3}, "dmi: unknown key. Did you mean 'dim'? Known here: activation, dim, encoders, fusion, stages."),
        (
            {"encoders": {"image": {"headz": 3}}},
            "encoders.image.headz: unknown key. Did you mean 'heads'? Known here: attention, heads, widths.",
        ),
        (
            {"encoders": {"image": {"attention": {"kind": "bilinear", "rnak": 3}}}},
            "encoders.image.attention.rnak: unknown key. Did you mean 'rank'? Known here: kind, rank.",
        ),
        (
            {"stages": [{"kind": "dot"}, {"kind": "dot", "scal": 1}]},
            "stages.1.scal: unknown key. Did you mean 'scale'? Known here: kind, scale.",
        ),
        (
            {"fusion": {"kind": "bilinaer"}},
            "fusion.kind: 'bilinaer' is unknown. Did you mean 'bilinear'? Known here: dot, bilinear.",
        ),
        (
            {"fusion": {"kind": "dot", "scale": 0}},
            "fusion.scale: Input should be greater than 0, but got 0.",
        ),
        (
            {"activation": "gleu"},
            "activation: Input should be 'gelu' or 'relu', but got 'gleu'. Did you mean 'gelu'?",
        ),
        ({"encoders": {"image": 3}}, "encoders.image: Input should be a valid dictionary"),
        ({"dim": "wide"}, "dim: Input should be a valid integer"),
        ({"dim": float("inf")}, "dim: Input should be a finite number"),
    ],
)
def test_an_error_names_the_path_as_the_user_wrote_it_the_rule_and_the_nearest_key(values: dict, message: str):
    with pytest.raises(ConfigError) as caught:
        Model.from_dict(values)
    assert message in str(caught.value)


def test_an_error_says_where_the_values_came_from():
    with pytest.raises(ConfigError, match=r"^model\.dmi: unknown key"):
        Model.from_dict({"dmi": 1}, where="model")


def test_every_error_is_told_in_one_line():
    with pytest.raises(ConfigError) as caught:
        Model.from_dict({"dmi": 1, "encoders": {"image": {"heads": 0}}})
    assert str(caught.value).count("; ") == 1
    assert "\n" not in str(caught.value)


def test_values_that_are_no_mapping_are_refused():
    with pytest.raises(ConfigError, match=r"^model: must be a mapping of keys to values, but got \[1\]\.$"):
        Model.from_dict([1], where="model")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"dim": 2, "dim": 4}', "key 'dim' is there twice"),
        ('{"dim": NaN}', "NaN is not a number in JSON"),
        ("{", "Expecting property name"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_means_two_things_is_refused(text: str, reason: str):
    with pytest.raises(ConfigError, match=reason):
        Model.from_json(text)


def test_canonical_json_does_not_depend_on_the_order_of_keys():
    assert canonical_json({"b": 1, "a": {"d": 2, "c": 3}}) == '{"a":{"c":3,"d":2},"b":1}'
    first = Model(encoders={"image": Encoder(), "text": Encoder(heads=1)})
    second = Model(encoders={"text": Encoder(heads=1), "image": Encoder()})
    assert first.content_hash() == second.content_hash()


def test_canonical_json_refuses_nan():
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"loss": float("nan")})


def test_a_content_hash_is_the_same_on_every_machine():
    assert MODEL.content_hash() == "8f2fca99232b126c"


dots = st.builds(Dot, scale=st.floats(min_value=0, exclude_min=True, max_value=1e9))
bilinears = st.builds(Bilinear, rank=st.integers(1, 99))
encoders = st.builds(
    Encoder,
    heads=st.integers(1, 9),
    attention=dots | bilinears,
    widths=st.lists(st.integers(-5, 5), max_size=3).map(tuple),
)
names = st.sampled_from(["image", "text", "dot", "heads", "kind"])
models = st.builds(
    Model,
    dim=st.integers(-4, 4).map(lambda half: 2 * half),
    encoders=st.dictionaries(names, encoders, max_size=3),
    stages=st.lists(dots | bilinears, max_size=2).map(tuple),
    fusion=st.none() | dots | bilinears,
)


@given(models, models)
def test_hashes_are_equal_exactly_when_specs_are(first: Model, second: Model):
    assert (first == second) == (first.content_hash() == second.content_hash())
    assert Model.from_json(first.to_json()).content_hash() == first.content_hash()


class Amount(Spec):
    value: float


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_hashed_as_they_compare(first: float, second: float):
    same = Amount(value=first).content_hash() == Amount(value=second).content_hash()
    assert same == (first == second)


def test_minus_zero_has_the_hash_of_zero():
    assert Amount(value=-0.0).content_hash() == Amount(value=0.0).content_hash()


@given(models, names, encoders)
def test_what_was_put_at_a_path_is_found_there(model: Model, name: str, encoder: Encoder):
    holding = model.model_copy(update={"encoders": {**model.encoders, name: Encoder()}})
    assert value_at(replace_at(holding, f"encoders.{name}", encoder), f"encoders.{name}") == encoder
