"""Price rows for tests that want three numbers."""

from gateway.billing.price_row import Price
from gateway.billing.rates import Layer


def price_row(input_nano_usd: int, cached_input_nano_usd: int, output_nano_usd: int) -> Price:
    """A row of nano-USD per million tokens."""
    return Price(Layer({"input": input_nano_usd, "cached_input": cached_input_nano_usd, "output": output_nano_usd}))
