"""{title} whose layers have widths of their own, written by adapruner.

Open the folder with `trust_remote_code=True` (transformers 4.57 or later). The
blocks are those of the installed transformers, built with the query heads,
key-value heads and feed-forward width that `layer_widths` of config.json names
for each layer; a layer with `query_heads` 0 has no attention and none of its norms.
"""

import copy

import torch
from torch import nn
from transformers import {stem}Config, {prefix}ForCausalLM, {stem}Model
from transformers.models.{module}.modeling_{module} import {layer_class}

# Norms that a layer without attention does not have.
ATTENTION_NORMS = {norms}
# Whether a layer reads its widths from its configuration also when it runs.
FROM_CONFIG = {from_config}
# Whether the class takes the width of heads from the hidden size, so that it has no room for other
# numbers of heads.
BY_HIDDEN = {by_hidden}


class Adapruner{stem}Config({stem}Config):
    """The configuration and `layer_widths`, an object for each layer.

    Where the width of heads does not follow from the number of heads, the numbers of heads and
    the feed-forward width are the largest of all layers. Other lists with an entry for each layer have those of
    the layers with attention first: the order of the key-value cache.
    """

    model_type = "{model_type}"
    layer_widths: list | None = None

    def validate_architecture(self):
        """Heads have a width of their own: the hidden size need not be a multiple of their number."""
        found = len(self.layer_widths or [])
        if found != self.num_hidden_layers:
            raise ValueError(f"layer_widths: {{self.num_hidden_layers}} layers expected, {{found}} found")


class NoAttention(nn.Module):
    """What stands for the attention of a layer that has none: it adds nothing."""

    is_sliding = False

    def forward(self, hidden_states, *args, **kwargs):
        return torch.zeros_like(hidden_states), None


def resized(linear, inputs, outputs):
    return type(linear)(inputs, outputs, bias=linear.bias is not None)


def attention_of_width(config, widths, slot, kind):
    """Attention that is made for heads as wide as the stream together, then put on the stream."""
    own = copy.copy(config)
    own.hidden_size = config.hidden_size // config.num_attention_heads * widths["query_heads"]
    own.num_attention_heads = widths["query_heads"]
    own.{kv_heads} = widths["kv_heads"]
    attention = kind(own, slot)
    for name in {reads}:
        linear = getattr(attention, name)
        setattr(attention, name, resized(linear, config.hidden_size, linear.out_features))
    linear = attention.{writes}
    attention.{writes} = resized(linear, linear.in_features, config.hidden_size)
    return attention


def build_layer(config, widths, slot):
    """The layer of these widths; `slot` is its place in the key-value cache."""
    own = copy.copy(config)
    own.{ffn} = {ffn_width}
    if widths["query_heads"] > 0 and not BY_HIDDEN:
        own.num_attention_heads = widths["query_heads"]
        own.{kv_heads} = widths["kv_heads"]
    layer = {layer_class}(own, slot)
    if widths["query_heads"] > 0 and BY_HIDDEN:
        layer.{attention} = attention_of_width(own, widths, slot, type(layer.{attention}))
    if widths["query_heads"] == 0:
        layer.{attention} = NoAttention()
        for norm in ATTENTION_NORMS:
            setattr(layer, norm, nn.Identity())
    # Where the sizes are built in, what is read later (which attention to run) is
    # read from the model's one configuration, so that changing it has effect.
    for module in layer.modules():
        if not FROM_CONFIG and hasattr(module, "config"):
            module.config = config
    return layer


class Adapruner{stem}Model({stem}Model):
    config_class = Adapruner{stem}Config
    _no_split_modules = ["{layer_class}"]

    def __init__(self, config):
        super().__init__(config)
        # Cache slots are counted over the layers that have attention, the others
        # come behind: slot 0, whose length is the length of the text so far,
        # always belongs to one that has.
        attend = [widths["query_heads"] > 0 for widths in config.layer_widths]
        order = sorted(range(len(attend)), key=lambda layer: not attend[layer])
        slots = {{layer: slot for slot, layer in enumerate(order)}}
        layers = enumerate(config.layer_widths)
        self{owner}.{list} = nn.ModuleList([build_layer(config, widths, slots[layer]) for layer, widths in layers])
        self.post_init()


class Adapruner{prefix}ForCausalLM({prefix}ForCausalLM):
    config_class = Adapruner{stem}Config
    _no_split_modules = ["{layer_class}"]

    def __init__(self, config):
        super().__init__(config)
        self.{base} = Adapruner{stem}Model(config)
        self.post_init()


# Later versions have other names for some modules than files have; what they rename for the class
# above, they rename for this one.
try:
    from transformers import conversion_mapping

    renamed = conversion_mapping.get_checkpoint_conversion_mapping("{prefix}ForCausalLM")
    if renamed is not None:
        conversion_mapping.register_checkpoint_conversion_mapping(
            "Adapruner{prefix}ForCausalLM", renamed, overwrite=True
        )
except ImportError:
    pass
