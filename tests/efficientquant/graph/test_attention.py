"""The design's table: SQNR of an attention's output after each 8-bit post-softmax quantizer.

Logits N(0, σ²), values N(0, 1), 8192 rows of attention for each column. The table does not say how its attention was
made. σ = 1, 3, 2 and 2 reproduce all of its columns at once: uniform uint8 alone fixes σ to a few hundredths, and the
other rows follow.
"""

import pytest
import torch
from efficientquant import primitives as p
from efficientquant.paper import as_printed
from efficientquant.softmax_quantizers import ExponentLog2, UniformUnit, choose_twin_split

ROWS = 8192
TOLERANCE_DB = 0.5

COLUMNS = {"256 diffuse": (256, 1.0), "256 peaky": (256, 3.0), "64": (64, 2.0), "16": (16, 2.0)}
TABLE = {  # dB, in the order of the columns
    # A constant function: the result depends on the sample's largest probability, in the first column by several dB.
    "as printed": (-32.5, -30.8, -25.7, -16.1),
    "A": (39.6, 37.6, 37.8, 37.9),
    "G": (36.0, 36.0, 36.0, 36.1),
    "log2": (13.7, 13.7, 13.7, 13.6),
    # The design has 20.4 in the last column. Over 65,536 rows it converges to 19.8, but sixteen maps may give 20.4.
    "log-√2": (19.9, 19.9, 20.0, 19.9),
    "uint8": (14.6, 33.9, 33.7, 42.0),
    "int8": (9.3, 29.1, 28.4, 36.0),
    "twin-uniform": (32.5, 41.0, 41.0, 44.7),
}


@pytest.fixture(scope="module", params=COLUMNS)
def column(request):
    """Return (column's name, attention (maps, N, N), values (maps, N, 32))."""
    tokens, deviation = COLUMNS[request.param]
    generator = torch.Generator().manual_seed(1)
    attention = (torch.randn(ROWS // tokens, tokens, tokens, generator=generator) * deviation).softmax(-1)
    return request.param, attention, torch.randn(ROWS // tokens, tokens, 32, generator=generator)


def test_attention_output_keeps_the_tabulated_sqnr(column):
    """Every quantizer keeps the attention output within 0.5 dB of the table."""
    name, attention, values = column
    low, high = (float(bound) for bound in attention.aminmax())
    quantizers = {
        "as printed": as_printed.choose_log2(low, high),
        "A": p.choose_log2_parameters(low, high, 8, 1e-5),
        "G": p.DataFreeLog2(bits=8, octaves=20),
        "log2": ExponentLog2(8),
        "log-√2": ExponentLog2(8, codes_per_octave=2),
        "uint8": UniformUnit(8),
        "int8": UniformUnit(8, signed=True),
        "twin-uniform": choose_twin_split(attention, 8, values),
    }
    exact = attention @ values
    sqnr = {key: p.sqnr_db(exact, q.dequantize(q.quantize(attention)) @ values) for key, q in quantizers.items()}
    index = list(COLUMNS).index(name)
    assert sqnr == pytest.approx({key: row[index] for key, row in TABLE.items()}, abs=TOLERANCE_DB)
