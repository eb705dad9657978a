"""What the tests of all methods share."""

import pytest


@pytest.fixture(scope="session")
def replace_option():
    """Return a function that gives a recipe's name another option.

    It takes (name, option), as in ("int8:weight_bits=4", "weight_bits=5"). The names in `without` are left out too.
    """

    def replace(name, option, without=()):
        dropped = {option.partition("=")[0], *without}
        kept = [part for part in name.split(":") if part.partition("=")[0] not in dropped]
        return ":".join([*kept, option])

    return replace
