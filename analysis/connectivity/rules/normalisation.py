"""Rules of normalisation: batch, instance, layer, root mean square, group and weight norm."""

from __future__ import annotations

from typing import Any

from .registry import Arguments, present, rule, with_rest
from .speaker import Speaker


@rule("batch_norm", "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training")
@rule("cudnn_batch_norm", "_batch_norm_no_update", "instance_norm")
def _batch_norm(s: Speaker, a: Arguments, out: Any) -> Any:
    x = a["input"]
    s.reduced(x, [d for d in range(len(x.shape)) if d != 1])
    result = s.per_channel(x, [a.get("weight"), a.get("bias"), a.get("running_mean"), a.get("running_var")])
    return with_rest(result, a, out)


@rule("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")
def _layer_norm(s: Speaker, a: Arguments, out: Any) -> Any:
    x = a["input"]
    s.reduced(x, range(len(x.shape) - len(a["normalized_shape"]), len(x.shape)))
    return with_rest(s.aligned([x, *present(a.get("weight"), a.get("bias"))], x.shape), a, out)


@rule("group_norm", "native_group_norm")
def _group_norm(s: Speaker, a: Arguments, out: Any) -> Any:
    x = a["input"]
    groups = a["num_groups"] if "num_groups" in a else a["group"]
    split = s.reshape(x, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    s.reduced(split, range(2, len(split.shape)))
    return with_rest(s.per_channel(x, [a.get("weight"), a.get("bias")]), a, out)


@rule("_weight_norm", "_weight_norm_interface")
def _weight_norm(s: Speaker, a: Arguments, out: Any) -> Any:
    s.reduced(a["v"], [d for d in range(len(a["v"].shape)) if d != a["dim"]])
    return with_rest(s.aligned([a["v"], a["g"]], a["v"].shape), a, out)
