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
    let mut families = 0;
    for entry in fs::read_dir(fixture("chat")).unwrap() {
        families += 1;
        let path = entry.unwrap().path();
        let family = path.file_stem().unwrap().to_string_lossy().into_owned();
        let file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let chat = compile(file["template"].as_str().unwrap(), &file["tokens"]).unwrap().unwrap();
        for case in file["cases"].as_array().unwrap() {
            let messages: Vec<Message> =
                case["messages"].as_array().unwrap().iter().map(message).collect();
            let variables = json_fields(&case["variables"], &[]);
            let prompt = case["add_generation_prompt"].as_bool().unwrap();
            let rendered = chat.render_with(&messages, &variables, prompt);
            match case["error"].as_str() {
                None => {
                    let rendered =
                        rendered.unwrap_or_else(|e| panic!("{family} {messages:?}: {e}"));
                    let lines = rendered.lines().zip(case["text"].as_str().unwrap().lines());
                    for (found, expected) in lines {
                        assert_eq!(found, expected, "{family} {messages:?}");
                    }
                    assert_eq!(rendered, case["text"], "{family} {messages:?}");
                }
                Some(error) => {
                    let found = rendered.unwrap_err().to_string();
                    assert!(found.ends_with(error), "{family} {messages:?}: {found}");
                }
            }
        }
    }
    assert_eq!(families, 15);
}

/// A turn of a fixture.
fn message(turn: &Value) -> Message {
    Message {
        role: turn["role"].as_str().unwrap().to_owned(),
        content: turn["content"].as_str().map(str::to_owned),
        fields: json_fields(turn, &["role", "content"]),
    }
}

/// The fields of an object but for some, as JSON.
fn json_fields(object: &Value, without: &[&str]) -> Vec<(String, String)> {
    let fields = object.as_object().into_iter().flatten();
    let kept = fields.filter(|(name, _)| !without.contains(&name.as_str()));
    kept.map(|(name, value)| (name.clone(), value.to_string())).collect()
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
    assert!(text.contains("tokenizer_config.json: tokenizer: chat template, line 2: "), "{text}");
    let text = render("{{ messages[0].rolle.name }}").unwrap_err();
    assert!(text.contains("chat template, line 1"), "{text}");
    let text = render("{{ strftime_now('%Q') }}").unwrap_err();
    assert!(text.contains("the directive %Q is not known"), "{text}");
    let text =
        render("{% if 1 %}\n\n{{ 'a\nb'\n }}{% set x = 1 %}\n\n{{ messages.x.y }}{% endif %}");
    assert!(text.as_ref().unwrap_err().contains("chat template, line 7"), "{text:?}");
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
        "{{ 'a b'|replace(' ', 'x' * 100000000) }}",
        "{% set ns = namespace(a=1) %}{% set ns.a = ns %}{{ ns }}",
        "{% set ns = namespace(a=1) %}{% set ns.a = [ns] %}{{ ns == ns }}",
        "{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}{{ a < b }}",
        "{% set a = namespace() %}{% set a.x, a.y = a, 1 %}{{ a | string }}",
        "{% set a = namespace() %}{% set a.f = {'k': [(a,)]}.items() %}{{ a ~ '' }}",
        "{% set ns = namespace(a=[]) %}{% for i in range(20000) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a }}",
        "{% set ns = namespace(a=[]) %}{% for i in range(20000) %}{% set ns.a = {'a': ns.a} %}{% endfor %}{{ ns.a | tojson }}",
        "{% macro m(x, n) %}{{ m([[x, x], [x, x]], n - 1) if n else x | string | length }}{% endmacro %}{{ m([1], 30) }}",
        "{% for x in [1] recursive %}{{ loop([[x, x, x, x]]) }}{% endfor %}",
        "{% set a = ['ab' * 100000] * 100000 %}{{ a ~ a }}",
        "{% set a = ['ab' * 100000] * 100 %}{% set b = a + a + a + a %}{{ (b, b, b, b) | join(b | string) }}",
        "{% set a = 'x' * 1000000 %}{{ ('%s' * 100000) % ((a,) * 100000) }}",
        "{% set a = 'x' * 1000000 %}{{ ('{0}' * 100000).format(a) }}",
        "{{ '{:>99999999999}'.format(1) }}",
        "{{ '{:{}}'.format(1, 999999999) }}",
        "{{ '%099999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ 'a\nb' | indent(999999999) }}",
        "{{ [1, [2]] | tojson(indent=999999999) }}",
        "{{ [1] | batch(999999999, 'x') | list }}",
        "{{ 'a'.join(['b' * 1000000] * 1000000) }}",
        "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
        "{% set s = 'x' * 10000 %}{% for i in range(20) %}{% set ns = namespace(s=s) %}{% for j in range(9999) %}{% set ns.s = ns.s ~ s %}{% endfor %}{% endfor %}",
        "{{ range(1000000000) | list }}",
        "{{ [[1] * 99999] * 99999 }}",
        "{{ debug() }}",
        "{{ messages | pprint }}",
        &("{% set x = 'ab' %}".to_owned() + &"{% set x = x ~ x %}".repeat(40) + "{{ x }}"),
        &("{% set x = [1] %}".to_owned() + &"{% set x = [x, x] %}".repeat(40) + "{{ x == x }}"),
        &("{{ messages".to_owned() + &"|batch(1)".repeat(7000) + " }}"),
        &("{% set x = [] %}".to_owned() + &"{% set x=[[[[x]]]] %}".repeat(3000) + "{{ x }}"),
        &("{% set x = messages".to_owned()
            + &"|slice(1)|list".repeat(4000)
            + " %}{{ x | tojson }}"),
        &("{{ ".to_owned() + &"(".repeat(60_000)),
        &("{{ ".to_owned() + &"[".repeat(60_000)),
        &"{% if 1 %}".repeat(6_000),
    ] {
        let error = render(template).unwrap_err();
        assert!(error.contains("chat template"), "{error}");
        assert!(error.len() < 2000, "{}", error.len());
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

/// What transformers reads of a folder, and what is written again.
#[test]
fn templates_of_a_folder_are_used_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let tokenizer = json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}});
    fs::write(place("tokenizer.json"), tokenizer.to_string()).unwrap();
    let used = || {
        let tokenizer = TextTokenizer::from_hf_folder(folder.path()).unwrap();
        let names: Vec<String> =
            tokenizer.hf_files().unwrap().into_iter().map(|(name, _)| name).collect();
        (tokenizer.chat_template().map(str::to_owned), names[1..].to_vec())
    };
    assert_eq!(used(), (None, vec![]));
    fs::create_dir(place("additional_chat_templates")).unwrap();
    let named = ["additional_chat_templates/rag.jinja", "additional_chat_templates/tool_use.jinja"];
    named.iter().for_each(|name| fs::write(place(name), name).unwrap());
    let named: Vec<String> = named.map(str::to_owned).to_vec();
    assert_eq!(used(), (None, named.clone()));
    fs::write(place("chat_template.json"), r#"{"chat_template": "of a processor"}"#).unwrap();
    assert_eq!(used().0.unwrap(), "of a processor");
    fs::write(place("tokenizer_config.json"), r#"{"chat_template": "of the config"}"#).unwrap();
    assert_eq!(used().0.unwrap(), "of the config");
    fs::write(place("chat_template.jinja"), "of a file").unwrap();
    let (template, files) = used();
    assert_eq!(template.unwrap(), "of a file");
    let all = ["tokenizer_config.json", "chat_template.jinja", "chat_template.json"];
    assert_eq!(files[..3], all);
    assert_eq!(files[3..], named);
    fs::write(place("chat_template.jinja"), "{{ messages.x.y }}").unwrap();
    let tokenizer = TextTokenizer::from_hf_folder(folder.path()).unwrap();
    let error = tokenizer.chat().unwrap().unwrap().render(&[], false).unwrap_err().to_string();
    let path = place("chat_template.jinja").display().to_string();
    assert!(error.starts_with(&format!("{path}: tokenizer: chat template, line 1")), "{error}");
}
