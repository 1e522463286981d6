import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from chiasma.core.errors import DataError
from chiasma.data.digit_claims import SOURCES, digit_claims
from chiasma.data.manifest import DataSpec, read
from chiasma.data.splits import SPLITS


@pytest.fixture(scope="module", params=SOURCES)
def claims(request):
    return digit_claims(request.param)


def truth(frame):
    return (frame["label"] == "true").astype(float)


@pytest.mark.parametrize("column", ["text", "image"])
def test_each_text_and_each_image_is_true_as_often_as_false_in_every_split(claims, column):
    frame = claims.frame.assign(truth=truth(claims.frame))
    assert (frame.groupby(["split", column])["truth"].mean() == 0.5).all()


def test_no_digit_image_is_in_two_splits(claims):
    assert (claims.frame.groupby("image")["split"].nunique() == 1).all()


def test_about_eight_thousand_pairs_are_spread_over_four_splits_without_repeats(claims):
    assert 7_990 <= len(claims.frame) <= 8_010
    assert set(claims.frame["split"]) == set(SPLITS)
    assert not claims.frame.duplicated(["image", "text"]).any()
    assert claims.frame["id"].is_unique


def test_every_claim_is_right_about_its_digit():
    from sklearn.datasets import load_digits

    claims = digit_claims("digit_claims")
    digits = load_digits().target
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for text, image, label in claims.frame[["text", "image", "label"]].itertuples(index=False):
        digit = int(digits[int(image.rsplit("-")[-1])])
        if text in (f"this is a {words[digit]}", f"the digit is {words[digit]}"):
            assert label == "true"
        if text.startswith("this is more than"):
            assert (label == "true") == (digit > words.index(text.split()[-1]))
        if "even" in text.split():
            assert (label == "true") == (digit % 2 == 0)


def test_a_linear_model_of_the_pixels_is_at_chance_on_test():
    claims = digit_claims("digit_claims")
    frame = claims.frame
    pixels = np.stack([claims.images[name][..., 0].reshape(-1) / 255.0 for name in frame["image"]])
    train, test = (frame["split"] == "train").to_numpy(), (frame["split"] == "test").to_numpy()
    model = LogisticRegression(max_iter=200).fit(pixels[train], truth(frame)[train])
    assert abs(model.score(pixels[test], truth(frame)[test]) - 0.5) <= 0.03


def test_the_data_is_the_same_every_time():
    stamp = digit_claims("digit_claims:hard", pairs=600).stamp
    digit_claims.cache_clear()
    assert digit_claims("digit_claims:hard", pairs=600).stamp == stamp


def test_a_quick_look_is_smaller_and_still_balanced():
    frame = digit_claims("digit_claims", pairs=600).frame
    assert len(frame) < 900
    assert (frame.assign(truth=truth(frame)).groupby(["split", "text"])["truth"].mean() == 0.5).all()


def test_an_unknown_level_is_refused():
    with pytest.raises(DataError, match="must be one of digit_claims, digit_claims:hard, not 'digit_claims:odd'"):
        digit_claims("digit_claims:odd")


def test_more_rows_than_were_asked_for_are_said():
    assert read(DataSpec(rows=100)).findings.notes == [
        "data.rows=100 is too few to balance every text and image of digit_claims: 384 rows are used."
    ]
    assert read(DataSpec(rows=4000)).findings.notes == []
