"""Attention layers and MLPs of models in state-spaces' layout: what their tensors must look like."""

from errors import ConvertError, shown

SSM_TENSORS = ("mixer.A_log", "mixer.D", "mixer.dt_bias", "mixer.x_proj.weight", "mixer.dt_proj.weight")


def attention_layers(tensors, layers):
    """The layers whose mixer is attention; at least one must not be."""
    attention = []
    for layer in range(layers):
        prefix = f"backbone.layers.{layer}."
        if f"{prefix}mixer.in_proj.weight" in tensors and not any(prefix + name in tensors for name in SSM_TENSORS):
            attention.append(layer)
    if len(attention) == layers:
        tensors.fail("every layer is attention, expected one at least that is not")
    return attention


def check_attention(tensors, prefix, d_model):
    """Returns the outputs of the product to q, k and v, and the inputs of that behind the attention."""
    mixer = prefix + "mixer."
    tensors.check(prefix + "norm.weight", d_model)
    rows, queries = tensors.shape(mixer + "in_proj.weight", 2)[0], tensors.shape(mixer + "out_proj.weight", 2)[1]
    tensors.check_linear(mixer + "in_proj", rows, d_model, mixer + "in_proj.bias" in tensors)
    tensors.check_linear(mixer + "out_proj", d_model, queries, mixer + "out_proj.bias" in tensors)
    if mixer + "conv1d.weight" in tensors:
        tensors.check(mixer + "conv1d.weight", rows, 1, tensors.shape(mixer + "conv1d.weight", 3)[2])
        tensors.check(mixer + "conv1d.bias", rows)
    return rows, queries


def check_mlp(tensors, prefix, d_model):
    """Whether the layer has one."""
    if prefix + "norm2.weight" not in tensors:
        return False
    width = tensors.shape(prefix + "mlp.fc2.weight", 2)[1]
    tensors.check(prefix + "norm2.weight", d_model)
    tensors.check(prefix + "mlp.fc1.weight", 2 * width, d_model)
    tensors.check(prefix + "mlp.fc2.weight", d_model, width)
    return True


def check_hybrid_config(file, config, model):
    """The heads of attention are told by the config alone: it must agree with the widths."""
    layers = config.get("attn_layer_idx") or []
    if layers != model.attention:
        told = shown(tuple(layers)) if isinstance(layers, list) else shown(layers)
        raise ConvertError(f"{file}: attn_layer_idx is {told}, but the tensors have attention in "
                           f"{model.attention}; put the right config.json beside the source")
    attention = config.get("attn_cfg") if isinstance(config.get("attn_cfg"), dict) else {}
    for rows, queries in model.attention_widths:
        heads = attention.get("num_heads")
        shared = attention.get("num_heads_kv") or heads
        width = attention.get("head_dim") or (model.d_model // heads if type(heads) is int and heads > 0 else None)
        if not all(type(number) is int for number in (heads, shared, width)) or \
                (heads * width, (heads + 2 * shared) * width) != (queries, rows):
            raise ConvertError(f"{file}: attn_cfg tells {shown(heads)} heads ({shown(shared)} of keys and values) of "
                               f"width {shown(width)}, but the tensors have {rows} outputs for q, k and v, {queries} "
                               "of them for q; put the right config.json beside the source")
