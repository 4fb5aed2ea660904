from hypothesis import given
from hypothesis import strategies as st

from fedsim.randomness import generator, generators

ids = st.integers(0, 2**32 - 1)


@given(st.integers(0, 2**200), st.text(max_size=9), ids, st.lists(ids, min_size=1, max_size=15), ids)
def test_many_addresses_at_once_give_the_streams_of_each(seed, purpose, server_round, clients, phase):
    for client, drawn in zip(clients, generators(seed, purpose, server_round, clients, phase), strict=True):
        one = generator(seed, purpose, server_round, client, phase)
        assert drawn.bit_generator.state == one.bit_generator.state


def test_addresses_that_differ_in_any_part_give_other_streams():
    addresses = [(0, "a", 1, 2), (1, "a", 1, 2), (0, "b", 1, 2), (0, "a", 2, 1), (0, "a", 1), (0, "a", 1, 2, 0)]
    assert len({generator(*address).integers(2**63) for address in addresses}) == len(addresses)
