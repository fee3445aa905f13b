"""A run that several tests of the report read."""

from pathlib import Path

import pytest
from report_pages import make_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps, two held-out sets; read only."""
    return make_run(tmp_path_factory.mktemp("runs") / "one", sets=("openai/gsm8k", "math500"))
