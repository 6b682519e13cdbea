# {whole_title}: the model above as the language model of the whole, which asks AutoModel for it.

from transformers import AutoModel, {whole}Config, {whole}ForConditionalGeneration  # noqa: E402

AutoModel.register(Adapruner{stem}Config, Adapruner{stem}Model, exist_ok=True)


class Adapruner{whole}Config({whole}Config):
    """The configuration of the whole; that of the language model has `layer_widths`."""

    model_type = "adapruner_{whole_type}"

    def __init__(self, {text}=None, **kwargs):
        if isinstance({text}, dict):
            {text} = Adapruner{stem}Config(**{text})
        super().__init__({text}={text}, **kwargs)


class Adapruner{whole}ForConditionalGeneration({whole}ForConditionalGeneration):
    config_class = Adapruner{whole}Config


try:
    from transformers import conversion_mapping

    for name in ["{whole}ForConditionalGeneration", "{whole_type}"]:
        renamed = conversion_mapping.get_checkpoint_conversion_mapping(name)
        if renamed is not None:
            conversion_mapping.register_checkpoint_conversion_mapping(
                "Adapruner{whole}ForConditionalGeneration", renamed, overwrite=True
            )
except ImportError:
    pass
