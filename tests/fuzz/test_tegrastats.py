"""Properties of the parser of tegrastats' lines, for generated lines."""

import string

from efficientquant_agent.errors import TegrastatsError
from efficientquant_agent.samplers.tegrastats import Core, Engine, Rail, parse_line, values
from hypothesis import given, settings
from hypothesis import strategies as st

MB = 1 << 20
LABELS = st.text(string.ascii_uppercase + string.digits + "_", min_size=1, max_size=8).map("Z".__add__)
MEGAHERTZ = st.integers(0, 99999)
PERCENT = st.integers(0, 100)
MILLI = st.integers(-(10**6), 10**6)
CORES = st.lists(st.none() | st.tuples(PERCENT, MEGAHERTZ), min_size=1, max_size=16)
THOUSANDTHS = st.integers(-40000, 125000)
FIELDS = st.fixed_dictionaries(
    {
        "ram": st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
        "cores": CORES,
        "engines": st.dictionaries(LABELS.map("E".__add__), st.none() | st.tuples(PERCENT, MEGAHERTZ), max_size=5),
        "rails": st.dictionaries(LABELS.map("R".__add__), st.tuples(MILLI, MILLI), max_size=7),
        "temperatures": st.dictionaries(LABELS.map("T".__add__), THOUSANDTHS, max_size=9),
    }
)


def words(fields):
    """Yield each field as tegrastats would print it."""
    cores = ("off" if core is None else "{}%@{}".format(*core) for core in fields["cores"])
    yield "RAM {}/{}MB".format(*fields["ram"])
    yield f"CPU [{','.join(cores)}]"
    for label, engine in fields["engines"].items():
        yield f"{label} off" if engine is None else f"{label} {engine[0]}%@{engine[1]}"
    for label, (current, average) in fields["rails"].items():
        yield f"{label} {current}mW/{average}mW"
    for label, thousandths in fields["temperatures"].items():
        yield f"{label}@{thousandths / 1000}C"


@settings(deadline=None)
@given(FIELDS, st.randoms(use_true_random=False), st.sampled_from([" ", "  ", "\t"]))
def test_order_does_not_matter(fields, rng, space):
    """Every field is parsed back exactly, in any order and with any space between the fields."""
    line = list(words(fields))
    rng.shuffle(line)

    sample = parse_line(space.join(line))

    assert sample.ram == (fields["ram"][0] * MB, fields["ram"][1] * MB)
    assert sample.cpus == [core and Core(core[0] / 100, core[1] * 1e6) for core in fields["cores"]]
    assert sample.engines == {
        label: engine and Engine(engine[0] / 100, [engine[1] * 1e6]) for label, engine in fields["engines"].items()
    }
    assert sample.rails == {
        label: Rail(current / 1000, average / 1000, None) for label, (current, average) in fields["rails"].items()
    }
    assert sample.temperatures_c == {label: number / 1000 for label, number in fields["temperatures"].items()}


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text().map("RAM 1/2MB ".__add__) | st.binary().map(lambda data: data.decode("latin-1")))
def test_only_its_own_exception(line):
    """Any text is parsed or raises TegrastatsError, and its values are numbers."""
    try:
        by_series = values(parse_line(line))
    except TegrastatsError:
        return
    assert all(isinstance(value, float) for value in by_series.values())


@settings(deadline=None)
@given(FIELDS, st.data())
def test_a_cut_line_says_nothing_new(fields, data):
    """The rails and temperatures of a line that is cut anywhere are also in the whole line."""
    line = " ".join(words(fields))
    cut = line[: data.draw(st.integers(0, len(line)))]

    try:
        sample = parse_line(cut)
    except TegrastatsError:
        assert "MB" not in cut
    else:
        whole = parse_line(line)
        assert sample.temperatures_c.items() <= whole.temperatures_c.items()
        assert {label: rail.current_w for label, rail in sample.rails.items()}.items() <= {
            label: rail.current_w for label, rail in whole.rails.items()
        }.items()
        assert sample.cpus in ([], whole.cpus)
