"""What each ATen operation says of the atoms of its operands.

A rule gets the operation's arguments by name, with `Labelled` for tensors, and gives the labels of the result. The rule
for every operation is the same claim: if the operands move as their labels say, the result does, as its own labels say.
An operation without a rule freezes what it touches: every atom of its operands gets a colour of its own.

The modules here put their rules into `registry.RULES` when they are imported, which importing this package does.
"""

from . import contractions, indexing, layout, normalisation, pointwise, recurrent, reductions, spatial

__all__ = ["contractions", "indexing", "layout", "normalisation", "pointwise", "recurrent", "reductions", "spatial"]
