//! What is said of architectures that are not run.

use adapruner_arch::{Architecture, Multimodal};

/// Names, as `architectures` or `model_type` has them, of models that are known and not run:
/// what makes them so.
const NOT_RUN: [(&str, &str); 18] = [
    ("Gemma3n", "embeddings per layer, texts, images and sound in one folder"),
    ("gemma3n", "embeddings per layer, texts, images and sound in one folder"),
    ("Llama4", "mixtures of experts with a shared one"),
    ("llama4", "mixtures of experts with a shared one"),
    ("Qwen2_5_VL", "texts and images in one folder"),
    ("qwen2_5_vl", "texts and images in one folder"),
    ("Qwen3VL", "texts and images in one folder"),
    ("qwen3_vl", "texts and images in one folder"),
    ("Gemma4", "widths of heads by kind of layer, embeddings per layer"),
    ("gemma4", "widths of heads by kind of layer, embeddings per layer"),
    ("Qwen3_5", "gated DeltaNet layers"),
    ("qwen3_5", "gated DeltaNet layers"),
    ("Qwen3Next", "gated DeltaNet layers"),
    ("qwen3_next", "gated DeltaNet layers"),
    ("GptOss", "mixtures of experts with attention sinks"),
    ("gpt_oss", "mixtures of experts with attention sinks"),
    ("Qwen2MoeForCausalLM", "experts that every token takes"),
    ("qwen2_moe", "experts that every token takes"),
];

/// The message, and a hint, about the architecture `found`, written as `shown`.
pub(super) fn refusal(shown: &str, found: &str, own_code: bool) -> (String, Option<&'static str>) {
    let known = |(name, _): &&(&str, &str)| found.starts_with(name);
    if let Some((_, why)) = NOT_RUN.iter().find(known) {
        return (format!("{shown} is known but not run yet ({why})"), None);
    }
    let mut classes: Vec<String> = Architecture::ALL.iter().map(|a| a.family().class()).collect();
    classes.dedup();
    classes.extend(Multimodal::ALL.map(|of| of.composite().class()));
    let message = format!("{shown} is not supported, only {}", classes.join(", "));
    if own_code {
        let hint = "the folder brings modelling code of its own (auto_map), which is never run";
        return (message, Some(hint));
    }
    let names = Architecture::ALL.iter().map(|a| a.family().hf.model_type.to_owned());
    let larger = Multimodal::ALL.iter().map(|of| of.composite().model_type.to_owned());
    let all = classes.iter().cloned().chain(names).chain(larger);
    match adapruner_choice::nearest(found, all) {
        Some(name) => (format!("{message}; did you mean {name}?"), None),
        None => (message, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_ones_are_said_and_near_ones_named() {
        let of = |found| refusal(found, found, false);
        assert!(of("Qwen3_5ForCausalLM").0.contains("known but not run yet"));
        assert!(of("LlamaForCasualLM").0.ends_with("did you mean LlamaForCausalLM?"));
        assert!(of("qwen_2").0.ends_with("did you mean qwen2?"));
        assert!(
            of("Gemma3ForConditionalGenerations")
                .0
                .ends_with("mean Gemma3ForConditionalGeneration?")
        );
        assert!(of("gemma3n").0.contains("known but not run yet"));
        assert!(!of("Zzz").0.contains("did you mean"));
        assert!(refusal("X", "X", true).1.unwrap().contains("auto_map"));
    }
}
