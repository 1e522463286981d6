"""What a search itself costs: selection, hashing and variation, as a part of that and the candidates' trainings.

    python benchmarks/search_overhead.py --budget 3m

Searches attention on the built-in digits and claims, and measures the driver's processor time while it asks for
candidates (parents, edits, costs, hashes, fingerprints), promotes, archives, and measures the hypervolume. Warm-up,
baselines and the judging on fresh seeds are no part of the search and do not count.
"""

import argparse
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from chiasma.experiment import search_loop
from chiasma.experiment.attention_search import search_attention
from chiasma.experiment.compose import load_config
from chiasma.experiment.console import SilentConsole
from chiasma.store.run import RunStore

spent = {"asking": 0.0, "promoting": 0.0, "telling": 0.0}


def measured(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a call whose processor time is added up."""

    @wraps(call)
    def timed(*arguments: Any, **named: Any) -> Any:
        began = time.process_time()
        try:
            return call(*arguments, **named)
        finally:
            spent[name] += time.process_time() - began

    return timed


def main() -> None:
    """Print the share of the search and the cost of a candidate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="3m")
    parser.add_argument("--config", default="digit_claims_cpu")
    parser.add_argument("--data", default=None)
    options = parser.parse_args()
    loop = search_loop.SearchLoop
    # Asking happens inside telling's caller, never inside telling, so that nothing is counted twice.
    loop._ask = measured("asking", loop._ask)  # type: ignore[method-assign]
    loop._tell = measured("telling", loop._tell)  # type: ignore[method-assign]
    search_loop.promote = measured("promoting", search_loop.promote)
    with TemporaryDirectory() as place:
        overrides = [f"run.folder={Path(place) / 'runs'}", f"run.budget={options.budget}"]
        config = load_config(options.config, data=options.data, overrides=overrides)
        result = search_attention(config, console=SilentConsole())
        with RunStore.open(result.run_path) as store:
            trained = sum(job.seconds or 0.0 for job in store.jobs("search"))
    front, search = result.front, sum(spent.values())
    for name, seconds in spent.items():
        print(f"{name:>10} {seconds:8.2f} s of processor time")
    print(f"{front.candidates} candidates, {front.trainings} trainings, {front.duplicates_saved} duplicates saved")
    print(f"selection, hashing and variation: {1000 * search / max(1, front.candidates):.0f} ms a candidate,")
    print(f"{search / (search + trained):.2%} of the search, whose trainings took {trained:.0f} s of a worker")


if __name__ == "__main__":
    main()
