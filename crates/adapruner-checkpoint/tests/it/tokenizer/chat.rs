//! Chat templates against transformers' `apply_chat_template`, and templates
//! that mean no good.

use std::fs;

use adapruner_checkpoint::tokenizer::{
    TextTokenizer,
    chat::{ChatTemplate, Message},
};
use serde_json::{Value, json};

use super::from_gguf;
use crate::readers::fixture;

/// The template as a folder's tokenizer compiles it.
fn compile(template: &str, tokens: &Value) -> Result<Option<ChatTemplate>, String> {
    let vocabulary: serde_json::Map<_, _> = tokens
        .as_object()
        .unwrap()
        .values()
        .enumerate()
        .map(|(id, token)| (token.as_str().unwrap().to_owned(), id.into()))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = json!({"model": {"type": "BPE", "vocab": vocabulary, "merges": []}});
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let mut config = tokens.clone();
    config["chat_template"] = template.into();
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = TextTokenizer::from_hf_folder(folder.path()).unwrap();
    tokenizer.chat().map_err(|e| e.to_string())
}

fn render(template: &str) -> Result<String, String> {
    let chat = compile(template, &json!({"eos_token": "</s>"}))?.unwrap();
    chat.render(&[Message::new("user", "hi")], true).map_err(|e| e.to_string())
}

#[test]
fn conversations_read_as_transformers_writes_them() {
    for family in ["chatml", "llama2", "llama3", "mistral", "manners"] {
        let file = fs::read(fixture("chat").join(format!("{family}.json"))).unwrap();
        let file: Value = serde_json::from_slice(&file).unwrap();
        let chat = compile(file["template"].as_str().unwrap(), &file["tokens"]).unwrap().unwrap();
        for case in file["cases"].as_array().unwrap() {
            let text = |message: &Value, key: &str| message[key].as_str().unwrap().to_owned();
            let messages = case["messages"].as_array().unwrap();
            let messages: Vec<Message> = messages
                .iter()
                .map(|m| Message::new(text(m, "role"), text(m, "content")))
                .collect();
            let rendered = chat.render(&messages, case["add_generation_prompt"].as_bool().unwrap());
            match case["error"].as_str() {
                None => assert_eq!(rendered.unwrap(), case["text"], "{family} {messages:?}"),
                Some(error) => {
                    let found = rendered.unwrap_err().to_string();
                    assert!(found.ends_with(error), "{family} {messages:?}: {found}");
                }
            }
        }
    }
}

#[test]
fn metadata_of_gguf_has_a_template_too() {
    let chat = from_gguf(&super::metadata("smollm")).chat().unwrap().unwrap();
    let text = chat.render(&[Message::new("user", "hi")], false).unwrap();
    assert_eq!(text, "<|im_start|>user\nhi<|im_end|>\n");
}

#[test]
fn no_template_is_none() {
    let mut metadata = super::metadata("smollm");
    metadata.remove("tokenizer.chat_template");
    assert!(from_gguf(&metadata).chat().unwrap().is_none());
}

#[test]
fn bad_templates_are_refused_by_line() {
    let text = render("{{ 1 }}\n{% if %}").unwrap_err();
    assert!(text.contains("tokenizer.json: tokenizer: chat template, line 2: "), "{text}");
    let text = render("{{ messages[0].rolle.name }}").unwrap_err();
    assert!(text.contains("chat template, line 1"), "{text}");
    let text = render("{{ strftime_now('%Y') }}").unwrap_err();
    assert!(text.contains("strftime_now"), "{text}");
    let text = render("{% include 'passwd' %}").unwrap_err();
    assert!(text.contains("chat template, line 1"), "{text}");
    let text = render(&"x".repeat((1 << 16) + 1)).unwrap_err();
    assert!(text.contains("at most 65536 bytes expected, 65537 found"), "{text}");
}

#[test]
fn templates_that_do_not_end_are_stopped() {
    for template in [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set ns = namespace(x='ab') %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{{ 'ab' * 999999999999 }}",
        "{{ 'ab'.replace('', 'x' * 9999999) * 9999999 }}",
        &("{{ ".to_owned() + &"(".repeat(60_000)),
        &("{{ ".to_owned() + &"[".repeat(60_000)),
        &"{% if 1 %}".repeat(6_000),
    ] {
        let error = render(template).unwrap_err();
        assert!(error.contains("chat template"), "{error}");
    }
}

/// Chains that a recursive compiler goes down a level for each link of.
#[test]
fn long_chains_do_not_end_the_program() {
    const BYTES: usize = 65_000;
    for (before, link, after) in [
        ("{{ ", "-", "1 }}"),
        ("{{ ", "not ", "1 }}"),
        ("{{ 1", "+1", " }}"),
        ("{{ 'a'", "|trim", " }}"),
        ("{{ 'a'", "[0]", " }}"),
        ("{{ ", "1 if 1 else ", "1 }}"),
        ("{% if 1 %}", "{% elif 1 %}", "{% endif %}"),
    ] {
        let chain = format!("{before}{}{after}", link.repeat(BYTES / link.len()));
        // Rendered or refused, but the program goes on.
        drop(render(&chain));
    }
}

#[test]
fn blocks_for_training_print_what_is_in_them() {
    for (template, expected) in [
        ("{% generation %}a{% endgeneration %}", "a"),
        ("{%- generation -%} a {%- endgeneration -%} b", "ab"),
        ("{% set generation = 1 %}{{ generation }}", "1"),
        ("é{%generation%}ü{%endgeneration%}{", "éü{"),
    ] {
        assert_eq!(render(template).unwrap(), expected, "{template}");
    }
}
