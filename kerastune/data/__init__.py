"""Data: a module for each source, a row for each kind of truth, and the rules for all of them."""

from kerastune.data.loading import SOURCES, load, refuse_missing, whole
from kerastune.data.order import Order
from kerastune.data.source import KNOWN, Progress
from kerastune.data.splits import Split, Splits, few, picked, spread
from kerastune.data.truths import TRUTHS

__all__ = [
    "KNOWN",
    "SOURCES",
    "TRUTHS",
    "Order",
    "Progress",
    "Split",
    "Splits",
    "few",
    "load",
    "picked",
    "refuse_missing",
    "spread",
    "whole",
]
