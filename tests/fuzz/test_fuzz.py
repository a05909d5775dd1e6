"""A few seeded inputs of every kind; ``make fuzz`` runs thousands."""

import logging

import pytest

from fuzz.__main__ import fuzz
from fuzz.kinds import KINDS


@pytest.mark.parametrize("name", KINDS)
def test_damaged_inputs_are_refused_or_mean_what_they_say(name, tmp_path):
    logging.disable(logging.CRITICAL)
    try:
        outcomes, failures = fuzz(name, 12, 1, tmp_path)
    finally:
        logging.disable(logging.NOTSET)
    assert not failures, failures[0]
    assert outcomes["accepted"] + outcomes["refused"] == 12
