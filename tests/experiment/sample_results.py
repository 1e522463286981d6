"""Results as a finished run leaves them, small enough to read."""

from typing import Any

from chiasma.experiment.results import Arm, Calibration, Gain, Interval, Results

FLOORS: tuple[tuple[str, str, float], ...] = (
    ("majority", "always the most frequent answer", 0.502),
    ("tfidf_logistic", "logistic regression on words and pairs of words (TF-IDF)", 0.517),
    ("image_logistic", "logistic regression on shrunken pixels", 0.498),
    ("tfidf_image_logistic", "logistic regression on words and pairs of words (TF-IDF) and shrunken pixels", 0.489),
    ("concat", "both encoders, their means side by side, two layers", 0.941),
)


def near(value: float, width: float = 0.009) -> Interval:
    return Interval(value=value, low=value - width, high=min(1.0, value + width))


def gain(against: str, value: float, *, width: float = 0.011, metric: str = "accuracy") -> Gain:
    estimate = Interval(value=value, low=value - width, high=value + width)
    verdict = "better" if estimate.low > 0 else "worse" if estimate.high < 0 else "no difference"
    return Gain(against=against, metric=metric, gain=estimate, verdict=verdict, detectable=1.43 * width)


def tests_of(accuracy: float) -> dict[str, Interval]:
    return {
        "accuracy": near(accuracy),
        "f1_macro": near(accuracy - 0.002),
        "log_loss": Interval(value=0.084, low=0.071, high=0.099),
        "auroc": Interval(value=0.994, low=0.991, high=0.996),
    }


def arms() -> tuple[Arm, ...]:
    floors = tuple(
        Arm(
            name=name,
            role="floor",
            description=description,
            candidate=1 if name == "concat" else None,
            seeds=3 if name == "concat" else 1,
            select={"accuracy": value + 0.004},
            test=tests_of(value),
            seconds=0.4 if name != "concat" else 38.0,
        )
        for name, description, value in FLOORS
    )
    return (
        *floors,
        Arm(
            name="random search",
            role="control",
            description="#14, by random: cross-attention, image to text",
            candidate=14,
            seeds=3,
            select={"accuracy": 0.966},
            test=tests_of(0.9645),
            seconds=55.0,
        ),
        Arm(
            name="finalist 2", role="finalist", description="#21, by local: wider", seeds=3, select={"accuracy": 0.968}
        ),
        Arm(
            name="winner",
            role="winner",
            description="#23, by local: fusion multiplicative instead of concat",
            candidate=23,
            seeds=3,
            select={"accuracy": 0.974},
            test=tests_of(0.972),
            parameters=184_322,
            flops=2_340_000.0,
            latency_seconds=0.00183,
            seconds=61.5,
        ),
    )


def design() -> dict[str, Any]:
    attention = {"kind": "dot_product", "projections": {"q": True, "k": True, "v": True, "o": False}}
    return {
        "model": {
            "dim": 64,
            "encoders": {
                "image": {"kind": "convolution", "channels": [16, 32, 64], "dropout": 0.1},
                "text": {"kind": "bert", "depth": 2, "heads": 4, "attention": attention},
            },
            "fusion": {"kind": "multiplicative", "rank": 64},
            "head": {"kind": "classification", "hidden": 64, "dropout": 0.1},
        },
        "training": {
            "optim": {
                "algorithm": {"kind": "adamw", "beta1": 0.9},
                "lr": 0.0021,
                "schedule": {"kind": "one_cycle", "rise": 0.3},
                "weight_decay": 0.01,
            },
            "loop": {"epochs": 20.0, "batch_size": 64},
        },
    }


def data() -> dict[str, Any]:
    halves = {"rows": 1, "groups": 1, "labels": {"true": 1, "false": 1}}
    sizes = {"train": 5040, "steer": 560, "select": 800, "test": 1600}
    return {
        "source": "digit_claims",
        "task": "classification, because the labels are 2 different words",
        "rows_read": 8012,
        "rows_kept": 8000,
        "splits": {
            name: {**halves, "rows": n, "groups": n // 5, "labels": {"true": n // 2, "false": n - n // 2}}
            for name, n in sizes.items()
        },
        "quarantined": {"exact duplicate": 9, "unreadable image": 3},
        "quarantine_file": "/data/cache/quarantine.jsonl",
        "counts": {"texts cut at 128 tokens": 4},
        "inputs": {"image": "3 x 8 x 8 pixels", "text": "up to 8 word pieces of a vocabulary of 61"},
        "near_duplicate_images": 12,
        "near_duplicate_images_across_splits": 0,
        "notes": ["The split follows the digit image."],
    }


def history() -> tuple[dict[str, float], ...]:
    return tuple(
        {
            "step": 90.0 * k,
            "epoch": 2.0 * k,
            "rate": 0.002 * (1 - k / 11),
            "train_loss": 0.69 * 0.72**k + 0.03,
            "log_loss": 0.69 * 0.74**k + 0.07,
            "accuracy": 0.975 - 0.47 * 0.6**k,
        }
        for k in range(1, 11)
    )


def full_results(**changes: Any) -> Results:
    """Return the results of a whole ``evolve`` on the built-in data."""
    proposers = ("random", "local")
    values: dict[str, Any] = {
        "run": "evolve-20260312-101500-ab12",
        "verb": "evolve",
        "source": "digit_claims",
        "metric": "accuracy",
        "higher_is_better": True,
        "budget": {"asked": "10 min", "spent_seconds": 588.0, "candidates": 48, "trainings": 97, "workers": 2},
        "data": data(),
        "arms": arms(),
        "winner": "winner",
        "gains": (
            *(gain(name, 0.972 - value, width=0.011 if name == "concat" else 0.025) for name, _, value in FLOORS),
            gain("random search", 0.0075, width=0.0081),
        ),
        "calibration": Calibration(
            temperature=1.31, threshold=0.47, expected_error_before=0.031, expected_error_after=0.012
        ),
        "proposers": tuple(
            {
                "proposer": name,
                "candidates": 24,
                "trainings": 50 - place,
                "scored": 22,
                "rejected": 2 - place,
                "failed": 0,
                "seconds": 240.0 + 80 * place,
                "gain": 0.01 + 0.002 * place,
                "best_error": 0.034 - 0.008 * place,
            }
            for place, name in enumerate(proposers)
        ),
        "rejections": {"probe: over the limit of 2,000,000 parameters": 2, "train: loss is not finite": 1},
        "duplicates_saved": 5,
        "anytime": tuple(
            {"seconds": s, "candidates": c, "error": e, "proposer": p}
            for s, c, e, p in (
                (31.0, 4, 0.21, "random"),
                (64.0, 9, 0.11, "random"),
                (98.0, 15, 0.071, "local"),
                (142.0, 21, 0.052, "local"),
                (201.0, 30, 0.034, "random"),
                (256.0, 41, 0.026, "local"),
            )
        ),
        "rungs": (
            {"lower": 0, "upper": 1, "pairs": 16, "spearman": 0.83},
            {"lower": 1, "upper": 2, "pairs": 3, "spearman": None},
        ),
        "history": history(),
        "design": design(),
        "lineage": (
            {"candidate": 5, "proposer": "random", "edit": "", "error": 0.11},
            {"candidate": 17, "proposer": "local", "edit": "fusion multiplicative instead of concat", "error": 0.052},
            {"candidate": 23, "proposer": "local", "edit": "learning rate 0.0021 instead of 0.001", "error": 0.026},
        ),
        "per_label": (
            {"label": "false", "count": 802, "recall": 0.969, "precision": 0.975, "f1": 0.972},
            {"label": "true", "count": 798, "recall": 0.975, "precision": 0.969, "f1": 0.972},
        ),
        "confusion": ((2331, 75), (60, 2334)),
        "reliability": tuple(
            {"confidence": c, "accuracy": a, "count": float(n)}
            for c, a, n in ((0.55, 0.57, 40), (0.68, 0.64, 55), (0.81, 0.84, 90), (0.92, 0.9, 260), (0.99, 0.992, 1155))
        ),
        "test_examples": 1600,
        "test_groups": 359,
        "opening": 0,
        "provenance": {
            "chiasma": {"version": "0.1.0", "commit": "ab12cd34ef56ab12cd34", "dirty": False},
            "time": "2026-03-12T10:15:00+00:00",
            "command": ["chiasma", "evolve", "--budget", "10m"],
            "seed": 0,
            "environment": {
                "python": "3.11.9",
                "platform": "Linux x86_64",
                "cpu": "Some CPU at 2.0 GHz",
                "accelerators": [],
                "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
            },
            "cores": 2,
            "memory_bytes": 8 * 2**30,
        },
        "notes": ("The budget allowed 80% of each design's full training, for all arms alike.",),
    }
    return Results(**{**values, **changes})
