"""Rules of recurrent layers: LSTM, GRU and plain cells."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..labels import Labelled, labelled
from .registry import Arguments, rule, shape_of, unknown
from .speaker import Speaker, values_along


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def _recurrent(s: Speaker, a: Arguments, out: Any) -> Any:
    """Layers of recurrent cells: the gates of a unit move together, and with its state."""
    if "input" not in a:  # packed sequences
        return unknown(s, a, out)
    x, parameters = a["input"], a["params"]
    each, both = 4 if a["has_biases"] else 2, 2 if a["bidirectional"] else 1
    states = a["hx"] if isinstance(a["hx"], (list, tuple)) else [a["hx"]]
    plain = all(len(dims) == 1 for dims, _ in x.groups) and not any(t.groups for t in states)
    if not plain or len(parameters) != a["num_layers"] * both * each or any(len(p.groups) < 1 for p in parameters):
        return unknown(s, a, out)
    last, units = len(x.shape) - 1, []
    for layer in range(a["num_layers"]):
        cells = [parameters[each * (both * layer + i) :][:each] for i in range(both)]
        for w_in, w_state, *biases in cells:
            unit = w_state.at(1)[1]
            for p in (w_in, w_state, *biases):
                s.relations.align(p.at(0)[1].reshape(-1, len(unit)), unit)
            for state in states:
                s.relations.mark(unit, values_along(state, len(state.shape) - 1), s.reason)
            inputs = Labelled((1, x.shape[-1]), tuple(((1,), atoms) for dims, atoms in x.groups if dims == (last,)))
            s.product(inputs, s.transposed(w_in, 0, 1), (1, w_in.shape[0]))
            units.append(unit)
        rest = [group for group in x.groups if group[0] != (last,)]
        x = labelled((*x.shape[:-1], len(unit) * both), [*rest, ((last,), np.concatenate(units[-both:]))])
    final = [labelled(shape_of(state), [((0, len(state.shape) - 1), np.stack(units))]) for state in out[1:]]
    return [x, *final]
