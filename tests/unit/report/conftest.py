"""What tests of reports share."""

from __future__ import annotations

import pytest

from tests.support.reports import small_run


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real run with four evaluations, and a record between every two."""
    return small_run(tmp_path_factory.mktemp("runs"))
