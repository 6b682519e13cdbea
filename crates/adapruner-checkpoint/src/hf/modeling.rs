//! The modelling code that a folder with widths per layer carries, made from what its
//! architecture declares.

use adapruner_arch::{
    Family, Multimodal,
    family::{HeadWidthRule, KvHeadRule},
    names::{Norm, Projection},
};

use crate::config::LayerWidths;

/// The file's name, which `auto_map` in config.json names.
pub(super) const MODELING_FILE: &str = "modeling_adapruner.py";

/// The code, with the family's names in braces; doubled braces are single ones.
const TEMPLATE: &str = include_str!("modeling_adapruner.py");
/// What stands behind it for a language model that is part of a larger one.
const MULTIMODAL: &str = include_str!("modeling_multimodal.py");

/// The code for a family, alone or inside a larger model.
pub(super) fn modeling(family: &Family, multimodal: Option<Multimodal>) -> String {
    let on_stream = |norm: &Norm| norm.is_attention() && norm.normed(family).is_none();
    let norms = Norm::ALL.into_iter().filter(on_stream).filter_map(|norm| norm.of(family));
    let norms: Vec<String> = norms.map(|name| format!("\"{}\"", name.hf)).collect();
    let model_type = format!("adapruner_{}", family.hf.model_type);
    // Where layers are: in the model that the class holds, or deeper in it.
    let (base, layers) = family.hf.outer.layers.split_once('.').unwrap_or(("model", "layers"));
    let (owner, list) = match layers.rsplit_once('.') {
        Some((owner, list)) => (format!(".{owner}"), list),
        None => (String::new(), layers),
    };
    let last = |name: &'static str| name.rsplit_once('.').map_or(name, |(_, last)| last);
    let fused = family.fused.iter().find(|fused| fused.of.contains(&Projection::Q));
    let reads: Vec<String> = match fused {
        Some(fused) => vec![format!("\"{}\"", last(fused.name.hf))],
        None => [Projection::Q, Projection::K, Projection::V]
            .map(|projection| format!("\"{}\"", last(projection.module_of(family))))
            .to_vec(),
    };
    // The widths are those of all experts together.
    let ffn_width = match family.experts {
        Some(rule) => format!("widths[\"ffn\"] // config.{}", rule.count),
        None => "widths[\"ffn\"]".to_owned(),
    };
    let truth = |is| if is { "True" } else { "False" };
    let names = [
        ("{layer_class}", &*format!("{}{}", family.hf.prefix, family.hf.layer_class)),
        ("{base}", base),
        ("{owner}", &owner),
        ("{list}", list),
        ("{attention}", family.hf.attention),
        ("{ffn}", family.hf.ffn.0),
        ("{ffn_width}", &ffn_width),
        (
            "{kv_heads}",
            match family.hf.kv_heads {
                KvHeadRule::Key | KvHeadRule::All => "num_key_value_heads",
                KvHeadRule::Falcon => "num_kv_heads",
            },
        ),
        ("{by_hidden}", truth(family.hf.head_width == HeadWidthRule::ByHidden)),
        ("{reads}", &format!("[{}]", reads.join(", "))),
        ("{writes}", last(Projection::O.module_of(family))),
        ("{title}", family.title),
        ("{stem}", family.hf.stem),
        ("{prefix}", family.hf.prefix),
        ("{module}", family.hf.module),
        ("{model_type}", &model_type),
        ("{norms}", &format!("[{}]", norms.join(", "))),
        ("{from_config}", truth(family.hf.widths_from_config)),
    ];
    let mut code = TEMPLATE.to_owned();
    if let Some(composite) = multimodal.map(Multimodal::composite) {
        let whole = [
            ("{whole}", composite.prefix),
            ("{whole_title}", composite.title),
            ("{whole_type}", composite.model_type),
            ("{text}", composite.text),
        ];
        code.extend(["\n\n", &*filled(MULTIMODAL.to_owned(), whole)]);
    }
    let code = filled(code, names);
    code.replace("{{", "{").replace("}}", "}")
}

/// A template with names in place of words in braces.
fn filled<'a>(template: String, names: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    names.into_iter().fold(template, |code, (name, value)| code.replace(name, value))
}

/// The layers in the order of the key-value cache of that code: those with attention first.
/// Lists of config.json with an entry for each layer, but for the widths, are in this order.
pub(super) fn cache_order(layers: &[LayerWidths]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..layers.len()).collect();
    order.sort_by_key(|&layer| !layers[layer].has_attention());
    order
}

#[cfg(test)]
mod tests {
    use adapruner_arch::Architecture;

    use super::*;

    #[test]
    fn no_name_is_left_open() {
        for architecture in Architecture::ALL {
            let code = modeling(architecture.family(), None);
            let open = code.lines().find(|line| line.contains("{prefix") || line.contains("{stem"));
            assert_eq!(open, None);
            assert!(code.contains("slots = {layer: slot for slot, layer"), "{code}");
            assert!(code.contains(&format!("class Adapruner{}(", architecture.family().class())));
        }
        let code = modeling(Architecture::Gemma3.family(), None);
        assert!(
            code.contains("ATTENTION_NORMS = [\"input_layernorm\", \"post_attention_layernorm\"]")
        );
    }

    #[test]
    fn layers_with_attention_come_first() {
        let with = |query_heads| LayerWidths { query_heads, kv_heads: query_heads, ffn: 1 };
        assert_eq!(cache_order(&[with(0), with(2), with(0), with(1)]), [1, 3, 0, 2]);
    }
}
