"""Llama whose layers have widths of their own, written by adapruner.

Open the folder with `trust_remote_code=True` (transformers 4.57 or later). The
blocks are those of the installed transformers, built with the query heads,
key-value heads and feed-forward width that `layer_widths` of config.json names
for each layer; a layer with `query_heads` 0 has no attention and no input norm.
"""

import copy

from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer


class AdaprunerLlamaConfig(LlamaConfig):
    """Llama's configuration and `layer_widths`, an object for each layer.

    `num_attention_heads`, `num_key_value_heads` and `intermediate_size` are the
    largest of all layers.
    """

    model_type = "adapruner_llama"
    layer_widths: list | None = None

    def validate_architecture(self):
        """Heads have a width of their own: the hidden size need not be a multiple of their number."""
        found = len(self.layer_widths or [])
        if found != self.num_hidden_layers:
            raise ValueError(f"layer_widths: {self.num_hidden_layers} layers expected, {found} found")


class FeedForwardLayer(LlamaDecoderLayer):
    """A layer without attention."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        del self.self_attn, self.input_layernorm

    def forward(self, hidden_states, *args, **kwargs):
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


def build_layer(config, widths, cache_index):
    """The layer of these widths; `cache_index` is its place in the key-value cache."""
    own = copy.copy(config)
    own.intermediate_size = widths["ffn"]
    if widths["query_heads"] == 0:
        layer = FeedForwardLayer(own, cache_index)
    else:
        own.num_attention_heads = widths["query_heads"]
        own.num_key_value_heads = widths["kv_heads"]
        layer = LlamaDecoderLayer(own, cache_index)
    # The sizes are built in. What is read later (which attention to run) is
    # read from the model's one configuration, so that changing it has effect.
    for module in layer.modules():
        if getattr(module, "config", None) is own:
            module.config = config
    return layer


class AdaprunerLlamaModel(LlamaModel):
    config_class = AdaprunerLlamaConfig
    _no_split_modules = ["LlamaDecoderLayer", "FeedForwardLayer"]

    def __init__(self, config):
        super().__init__(config)
        # Cache slots are counted over the layers that have attention: slot 0,
        # whose length is the length of the text so far, always belongs to one.
        layers, slots = [], 0
        for widths in config.layer_widths:
            layers.append(build_layer(config, widths, slots))
            slots += widths["query_heads"] > 0
        self.layers = nn.ModuleList(layers)
        self.post_init()


class AdaprunerLlamaForCausalLM(LlamaForCausalLM):
    config_class = AdaprunerLlamaConfig
    _no_split_modules = ["LlamaDecoderLayer", "FeedForwardLayer"]

    def __init__(self, config):
        super().__init__(config)
        self.model = AdaprunerLlamaModel(config)
        self.post_init()
