"""The corpus in the jail, with the screen and without it: nothing escapes, and honest modules are trained."""

import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from chiasma.core.outcome import Rejected, Scored
from chiasma.evaluate.jail import Jail
from chiasma.evaluate.jail import jail as supervisor
from chiasma.evaluate.jail.child import WORKING
from chiasma.evaluate.jailed_trial import run_jailed
from tests.evaluate.corpus import OWN, Case, expecting

# Two warm processes serve all: those of one of the processes that run tests.
pytestmark = pytest.mark.xdist_group("jail")

SECRET = "canary-3c9d1e"
SECONDS = 2.0
HONEST = (OWN / "honest_01_low_rank_bilinear.py").read_text()


@pytest.fixture(scope="module")
def marker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("effects")
    for place in (folder, *folder.parents):
        if place == Path("/tmp"):
            break
        place.chmod(place.stat().st_mode | 0o055)
    folder.chmod(0o777)
    return folder / "marker"


@pytest.fixture(scope="module")
def watched(jail: Jail, marker: Path) -> Iterator[Jail]:
    """Return a jail whose children are told where to leave a marker, and not the secret."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(supervisor.ENVIRONMENT, "ESCAPE_MARKER", str(marker))
        patch.setenv("ESCAPE_SECRET", SECRET)
        with Jail() as own:
            own.start()
            yield own


def effects(marker: Path) -> list[str]:
    """Return what was left behind, in the marker's folder and where children and tests work."""
    left = [str(path) for path in marker.parent.iterdir()]
    return left + [str(place) for place in (Path("/ESCAPE_MARKER"), Path("ESCAPE_MARKER")) if place.exists()]


def check_contained(case: Case, outcome: Scored | Rejected, jail: Jail, marker: Path, *, before: int | None) -> None:
    assert effects(marker) == []
    said = outcome.reason if isinstance(outcome, Rejected) else ""
    assert "ESCAPED" not in said
    assert SECRET not in said
    assert jail.warm_pid == before
    assert before is not None
    left = [child.name() for child in psutil.Process(before).children(recursive=True)]
    # The one that waits for the next order.
    assert WORKING not in left
    assert len(left) <= 1
    assert psutil.Process(before).num_threads() == 1


@pytest.mark.slow
@pytest.mark.parametrize("case", expecting("reject", "contain"), ids=lambda case: case.name)
def test_without_the_screen_the_wall_alone_holds(case, watched, marker, generated_job, small_claims):
    before = watched.warm_pid
    source = case.text or "pass"
    job = generated_job(source, time_limit_seconds=SECONDS)
    outcome = run_jailed(job, small_claims, watched, screened=False)
    check_contained(case, outcome, watched, marker, before=before)
    if isinstance(outcome, Scored):
        # 40 rows of select, balanced: what is scored must look like chance.
        assert outcome.metrics["accuracy"] < 0.8


@pytest.mark.parametrize("case", expecting("reject", "contain"), ids=lambda case: case.name)
def test_with_the_screen_nothing_gains(case, watched, marker, generated_job, small_claims):
    before = watched.warm_pid
    job = generated_job(case.text or "pass", time_limit_seconds=SECONDS / 2)
    outcome = run_jailed(job, small_claims, watched)
    check_contained(case, outcome, watched, marker, before=before)
    if case.expect == "reject" and "\ufffd" not in case.text:
        assert isinstance(outcome, Rejected)
        assert outcome.stage == "screen"
    if isinstance(outcome, Rejected):
        assert re.fullmatch(r"[^\x00-\x1f\x7f-\x9f]{1,400}", outcome.reason)


@pytest.mark.parametrize("case", expecting("accept"), ids=lambda case: case.name)
def test_each_honest_module_is_trained_and_scored(case, watched, marker, generated_job, small_claims):
    outcome = run_jailed(generated_job(case.text), small_claims, watched)
    assert isinstance(outcome, Scored), outcome
    assert outcome.metrics["jailed"] == 1.0
    assert not [name for name in outcome.metrics if name.startswith("jail_without")]


def test_an_evaluation_is_the_same_after_every_kind_of_corruption(watched, generated_job, small_claims):
    alone = run_jailed(generated_job(HONEST), small_claims, watched)
    assert isinstance(alone, Scored)
    for case in expecting("reject", "contain"):
        if case.signal.startswith("state") or case.signal == "history":
            run_jailed(generated_job(case.text, time_limit_seconds=1.0), small_claims, watched, screened=False)
    again = run_jailed(generated_job(HONEST), small_claims, watched)
    assert isinstance(again, Scored)
    assert again.objectives == alone.objectives
    assert {k: v for k, v in again.metrics.items() if "seconds" not in k} == {
        k: v for k, v in alone.metrics.items() if "seconds" not in k
    }
