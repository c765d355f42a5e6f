"""Data: one module a source, one row a kind of truth, and the rules that hold for all of them."""

from kerastune.data.loading import SOURCES, load
from kerastune.data.order import Order
from kerastune.data.source import Progress
from kerastune.data.splits import Split, Splits, few, spread
from kerastune.data.truths import TRUTHS

__all__ = ["SOURCES", "TRUTHS", "Order", "Progress", "Split", "Splits", "few", "load", "spread"]
