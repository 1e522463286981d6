"""One thread a process, folders of its own, shape checks on tensor functions, third-party data where there is some."""

import atexit
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

# Before NumPy and torch are imported: they read these once.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# No test may count as a look at the user's test splits or fill the user's cache. Parallel workers inherit the folder.
if "CHIASMA_TESTS_HOME" not in os.environ:
    home = tempfile.TemporaryDirectory(prefix="chiasma-tests-")
    atexit.register(home.cleanup)
    os.environ["CHIASMA_TESTS_HOME"] = home.name
for variable in ("STATE", "CACHE"):
    os.environ[f"CHIASMA_{variable}"] = str(Path(os.environ["CHIASMA_TESTS_HOME"]) / variable.lower())

import pytest  # noqa: E402
import torch  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# Only modules that name shapes: functions that edit and order graphs take eight times as long when they are checked.
SOURCE = Path(__file__).parents[1] / "src"
SHAPED = [
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for path in (*(SOURCE / "chiasma" / "model").rglob("*.py"), SOURCE / "chiasma" / "data" / "batch.py")
    if "from jaxtyping import" in path.read_text()
]
install_import_hook(SHAPED, "beartype.beartype")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def third_party() -> Callable[[str], Path]:
    """Return a function that gives the folder of a third-party dataset below ``CHIASMA_TEST_DATA``, or skips."""

    def find(name: str) -> Path:
        root = os.environ.get("CHIASMA_TEST_DATA")
        if root is None:
            pytest.skip("CHIASMA_TEST_DATA is not set, so there is no third-party data.")
        folder = Path(root) / name
        if not folder.exists():
            pytest.skip(f"CHIASMA_TEST_DATA={root} has no {name!r}.")
        return folder

    return find
