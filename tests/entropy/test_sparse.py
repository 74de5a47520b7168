"""Run lengths and gamma codes: round trips, lengths as Elias has them, and damaged bytes."""

import numpy as np
import pytest

from mlic_jax.entropy import power_law_penalty, run_length_decode, run_length_encode
from mlic_jax.entropy.sparse import LARGEST
from mlic_jax.errors import CorruptStreamError


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_round_trip(share):
    rng = np.random.default_rng(0)
    values = np.rint(rng.standard_cauchy((7, 60)) * 5) * (rng.random((7, 60)) < share)
    data = run_length_encode(values)
    np.testing.assert_array_equal(run_length_decode(data, values.shape), values)


def test_bits_are_those_of_the_definition():
    # Runs of 2 and 0 zeros, +1 and -5, and a run of 3 at the end: 011 0 1, 1 1 00101, 00100.
    assert run_length_encode(np.array([0, 0, 1, -5, 0, 0, 0])) == bytes([0b01101110, 0b01010010, 0b0_0000000])
    largest = np.array([LARGEST, -LARGEST])
    np.testing.assert_array_equal(run_length_decode(run_length_encode(largest), (2,)), largest)
    with pytest.raises(ValueError, match="cannot be coded"):
        run_length_encode(np.array([LARGEST + 1]))


def test_damaged_bytes_are_refused():
    data = run_length_encode(np.array([0, 0, 1, -5, 0, 0, 0]))
    for bad, count in ((data[:1], 7), (data + b"\0", 7), (data, 8), (data, 6), (b"", 7), (bytes(9), 7), (b"\x80", 2)):
        with pytest.raises(CorruptStreamError):
            run_length_decode(bad, (count,))


def test_penalty_of_a_power_law():
    np.testing.assert_allclose(power_law_penalty(np.float32([0, 0.01, -0.99])), [0, np.log(2), np.log(100)], atol=1e-6)
