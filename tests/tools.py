"""What a test does on a machine that lacks a tool."""

import os
from typing import NoReturn


def lacking(message: str) -> NoReturn:
    """Skip the test, saying what to install, or fail it where tools are required."""
    import pytest  # not what `make spark` waits for

    if os.environ.get("MIXWRIGHT_REQUIRE_TOOLS"):
        pytest.fail(message)
    pytest.skip(message)
