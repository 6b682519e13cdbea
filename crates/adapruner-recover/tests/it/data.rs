//! Records, prompts, masks, splits and batches.

use std::path::PathBuf;

use adapruner_checkpoint::text::TextOptions;
use adapruner_recover::data::{
    DataOptions, Dataset, Validation,
    batches::{self, BatchSize},
    prompt,
    records::{self, Record},
};

use crate::common::{checkpoint, said};

const OPTIONS: DataOptions =
    DataOptions { cutoff: 256, train_on_prompt: false, validation: Validation::Count(0), seed: 1 };

fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn read(name: &str, text: &str) -> adapruner_recover::Result<records::Records> {
    let (_folder, path) = file(name, text);
    records::read(path.to_str().unwrap(), &TextOptions::default())
}

fn dataset(name: &str, text: &str, options: &DataOptions) -> adapruner_recover::Result<Dataset> {
    Dataset::new(&read(name, text)?, &checkpoint("tiny").tokenizer, options)
}

#[test]
fn prompts_are_those_of_alpaca() {
    assert_eq!(
        prompt::alpaca("Add.", "1 2"),
        "Below is an instruction that describes a task, paired with an input that provides further \
         context. Write a response that appropriately completes the request.\n\n### \
         Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"
    );
    assert_eq!(
        prompt::alpaca("Sing.", ""),
        "Below is an instruction that describes a task. Write a response that appropriately \
         completes the request.\n\n### Instruction:\nSing.\n\n### Response:\n"
    );
}

#[test]
fn the_prompt_is_masked_and_eos_is_learned() {
    let text = r#"[{"instruction": "Sing.", "input": "", "output": "La la"}]"#;
    let tokenizer = &checkpoint("tiny").tokenizer;
    let set = dataset("a.json", text, &OPTIONS).unwrap();
    let [example] = set.train.as_slice() else { panic!("{:?}", set.train) };
    let prompt = tokenizer.encode(&prompt::alpaca("Sing.", "")).unwrap();
    let whole = tokenizer.encode(&(prompt::alpaca("Sing.", "") + "La la")).unwrap();
    assert_eq!(example.ids[..whole.len()], whole);
    assert_eq!(example.ids[whole.len()..], [tokenizer.eos_id().unwrap()]);
    for (at, learned) in example.learned.iter().enumerate() {
        assert_eq!(*learned, at >= prompt.len(), "token {at}");
    }
    let all = DataOptions { train_on_prompt: true, ..OPTIONS };
    let set = dataset("a.json", text, &all).unwrap();
    assert_eq!(set.train[0].targets(), set.train[0].ids.len() - 1);
}

#[test]
fn cuts_and_empty_answers_are_counted() {
    let text = concat!(
        "{\"instruction\": \"a\", \"output\": \"one two three four five six\"}\n",
        "\n",
        "{\"instruction\": \"b\", \"output\": \"  \"}\n",
        "{\"instruction\": \"c\", \"input\": null, \"output\": null}\n",
        "{\"instruction\": \"a very long instruction, longer than any other one in this test; it \
         goes on and on so that not a single token of its answer is left after the cut, however \
         it is tokenised by this small tokenizer of a tiny model\", \"output\": \"d\"}\n",
    );
    let prompt = checkpoint("tiny").tokenizer.encode(&prompt::alpaca("a", "")).unwrap().len();
    let options = DataOptions { cutoff: prompt + 3, ..OPTIONS };
    let set = dataset("a.jsonl", text, &options).unwrap();
    assert_eq!((set.counts.records, set.counts.empty), (4, 2));
    assert_eq!((set.counts.nothing_to_learn, set.counts.cut), (1, 2));
    assert!(set.counts.tokens_cut > 3);
    assert_eq!(set.train.len(), 1);
    assert_eq!(set.train[0].ids.len(), prompt + 3);
    assert_eq!(set.train[0].targets(), 3);
    let eos = checkpoint("tiny").tokenizer.eos_id().unwrap();
    assert_ne!(set.train[0].ids.last(), Some(&eos), "a cut answer has no end");
}

#[test]
fn conversations_follow_the_template_and_learn_the_assistant_only() {
    let text = r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "See you"}]}"#;
    let tokenizer = &checkpoint("tiny").tokenizer;
    let set = dataset("a.jsonl", text, &OPTIONS).unwrap();
    let example = &set.train[0];
    let rendered = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n\
                    <|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nSee you<|im_end|>\n";
    assert_eq!(example.ids, tokenizer.encode_plain(rendered).unwrap());
    let learned: Vec<u32> =
        example.ids.iter().zip(&example.learned).filter(|(_, l)| **l).map(|(id, _)| *id).collect();
    assert_eq!(tokenizer.decode(&learned, false).unwrap(), "Hello<|im_end|>\nSee you<|im_end|>\n");
}

#[test]
fn llama_templates_render_as_in_transformers() {
    use adapruner_checkpoint::tokenizer::chat::{ChatTemplate, Message};
    use adapruner_recover::data::chat::render;
    let compiled = |template: &str, bos: &str, eos: &str| {
        let tokens = [("bos_token", bos.to_owned()), ("eos_token", eos.to_owned())];
        ChatTemplate::new("model".as_ref(), template, tokens.into_iter()).unwrap()
    };
    let turns = [("system", "Be brief."), ("user", " Hi "), ("assistant", "Yes")];
    let turns = turns.map(|(role, content)| Message::new(role, content));
    let render =
        |template: &ChatTemplate, turns: &[Message]| render(template, &turns.to_vec().into());
    // The Llama 2 template of TheBloke's conversions, shortened, and Llama 3's.
    let two = "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}\
               {% set system_message = messages[0]['content'] %}{% else %}\
               {% set loop_messages = messages %}{% set system_message = false %}{% endif %}\
               {% for message in loop_messages %}\
               {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
               {{ raise_exception('roles must alternate') }}{% endif %}\
               {% if loop.index0 == 0 and system_message != false %}\
               {% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}\
               {% else %}{% set content = message['content'] %}{% endif %}\
               {% if message['role'] == 'user' %}\
               {{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
               {% elif message['role'] == 'assistant' %}\
               {{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}";
    let template = compiled(two, "<s>", "</s>");
    let rendered = render(&template, &turns).unwrap();
    assert_eq!(rendered.text, "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n Hi [/INST] Yes </s>");
    let [learned] = rendered.learned.as_slice() else { panic!() };
    assert_eq!(&rendered.text[learned.clone()], " Yes </s>");
    let wrong = render(&template, &turns[2..]).unwrap_err();
    assert!(wrong.contains("roles must alternate"), "{wrong}");

    let three = "{% set loop_messages = messages %}{% for message in loop_messages %}\
                 {% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'\
                 + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}\
                 {% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}\
                 {% if add_generation_prompt %}\
                 {{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";
    let template = compiled(three, "<|begin_of_text|>", "");
    let rendered = render(&template, &turns[1..]).unwrap();
    assert_eq!(
        rendered.text,
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\nYes<|eot_id|>"
    );
    assert_eq!(&rendered.text[rendered.learned[0].clone()], "Yes<|eot_id|>");
}

#[test]
fn text_is_cut_into_windows() {
    let text = "A longer text without any records in it. ".repeat(12);
    let options = DataOptions { cutoff: 16, validation: Validation::Share(0.25), ..OPTIONS };
    let set = dataset("a.txt", &text, &options).unwrap();
    let tokenizer = &checkpoint("tiny").tokenizer;
    let mut ids = tokenizer.encode(&text).unwrap();
    ids.push(tokenizer.eos_id().unwrap());
    let windows = ids.chunks(16).filter(|w| w.len() > 1).count();
    assert_eq!(set.train.len() + set.validation.len(), windows);
    assert_eq!(set.validation.len(), (windows as f64 / 4.0).round() as usize);
    assert!(set.train.iter().all(|e| e.targets() == e.ids.len() - 1));
    assert_eq!(dataset("a.jsonl", r#"{"text": "Some words"}"#, &OPTIONS).unwrap().train.len(), 1);
}

#[test]
fn malformed_records_are_named() {
    for (name, text, parts) in [
        ("a.jsonl", "{\"text\": \"x\"}\n{oops\n", vec!["a.jsonl", "line 2"]),
        (
            "a.json",
            "[{\"instruction\": 3, \"output\": \"x\"}]",
            vec!["record 0", "\"instruction\"", "a number"],
        ),
        ("a.json", "[{\"instruction\": \"x\"}]", vec!["record 0", "\"output\"", "missing"]),
        (
            "a.jsonl",
            "{\"question\": \"x\", \"answer\": \"y\"}",
            vec!["line 1", "\"question\", \"answer\""],
        ),
        (
            "a.jsonl",
            "{\"messages\": [{\"role\": \"user\"}]}",
            vec!["line 1", "turn 0", "\"content\""],
        ),
        ("a.jsonl", "{\"messages\": \"x\"}", vec!["an array expected"]),
        ("a.jsonl", "7", vec!["an object expected, a number found"]),
        ("a.json", "[{\"text\": \"x\"}, {", vec!["line 1"]),
        ("a.json", "[[1], [2", vec!["line 1, column 9", "the end of the file"]),
        (
            "a.jsonl",
            "{\"text\": \"x\"}\n[1] [2]\n",
            vec!["line 2, column 5", "the end of the line"],
        ),
        ("a.jsonl", "{\"text\": NaN, \"id\": 1}", vec!["line 1", "field \"text\""]),
        (
            "a.jsonl",
            "\n{\"instruction\": \"x\", \"output\": \"\\ud800\"}",
            vec!["line 2", "\"output\""],
        ),
    ] {
        let message = said(read(name, text));
        for part in parts {
            assert!(message.contains(part), "{part:?} not in {message}");
        }
    }
    let message = said(dataset("a.jsonl", "[9999999]", &OPTIONS));
    assert!(message.contains("line 1") && message.contains("9999999"), "{message}");
    let message = said(dataset("a.jsonl", "{\"instruction\": \"x\", \"output\": \"\"}", &OPTIONS));
    assert!(message.contains("1 without an answer"), "{message}");
}

#[test]
fn splits_are_seeded_disjoint_and_leave_something() {
    let text: String =
        (0..40).map(|i| format!("{{\"instruction\": \"n{i}\", \"output\": \"o{i}\"}}\n")).collect();
    let options = DataOptions { validation: Validation::Share(0.1), ..OPTIONS };
    let set = dataset("a.jsonl", &text, &options).unwrap();
    assert_eq!((set.train.len(), set.validation.len()), (36, 4));
    assert!(set.validation.iter().all(|v| !set.train.contains(v)));
    let again = dataset("a.jsonl", &text, &options).unwrap();
    assert_eq!((&set.validation, set.digest), (&again.validation, again.digest));
    let other = dataset("a.jsonl", &text, &DataOptions { seed: 2, ..options }).unwrap();
    assert_ne!(set.validation, other.validation);
    assert_ne!(set.digest, other.digest);
    let all = DataOptions { validation: Validation::Count(40), ..OPTIONS };
    assert!(said(dataset("a.jsonl", &text, &all)).contains("nothing is left"));
}

#[test]
fn batches_take_every_sequence_once() {
    let text: String =
        (0..23).map(|i| format!("{{\"text\": \"{}\"}}\n", "word ".repeat(1 + i % 7))).collect();
    let set = dataset("a.jsonl", &text, &OPTIONS).unwrap();
    for size in [BatchSize::Sequences(4), BatchSize::Tokens(20), BatchSize::Tokens(1)] {
        let epochs: Vec<_> = (0..2).map(|e| batches::epoch(&set.train, size, 3, e)).collect();
        for epoch in &epochs {
            let mut taken: Vec<usize> = epoch.concat();
            taken.sort_unstable();
            assert_eq!(taken, (0..23).collect::<Vec<_>>());
            for batch in epoch {
                let tokens: usize = batch.iter().map(|&at| set.train[at].ids.len()).sum();
                match size {
                    BatchSize::Sequences(count) => assert!(batch.len() <= count),
                    BatchSize::Tokens(most) => assert!(tokens <= most || batch.len() == 1),
                }
            }
        }
        assert_ne!(epochs[0], epochs[1]);
        assert_eq!(epochs[1], batches::epoch(&set.train, size, 3, 1));
    }
}

#[test]
fn records_are_told_apart_by_their_fields() {
    let kinds = read(
        "a.json",
        r#"[{"text": "t"}, {"messages": []}, {"instruction": "i", "output": "o", "text": "no"}, [1, 2]]"#,
    )
    .unwrap();
    let kinds: Vec<Record> = kinds.records.into_iter().map(|(_, record)| record).collect();
    assert_eq!(kinds[0], Record::Text("t".into()));
    assert_eq!(kinds[1], Record::Chat(Vec::new().into()));
    assert!(matches!(&kinds[2], Record::Instruction { output, .. } if output == "o"));
    assert_eq!(kinds[3], Record::Ids(vec![1, 2]));
}

/// A compiled template, and what is learned of a conversation by it.
fn learned_of(template: &str, record: &str) -> Result<(Vec<String>, usize, usize), String> {
    use adapruner_checkpoint::tokenizer::chat::ChatTemplate;
    use adapruner_recover::data::chat::render;
    let tokens = [("bos_token", "<s>".to_owned()), ("eos_token", "</s>".to_owned())];
    let template = ChatTemplate::new("model".as_ref(), template, tokens.into_iter()).unwrap();
    let records = read("a.jsonl", record).map_err(|e| e.to_string())?;
    let [(_, Record::Chat(conversation))] = records.records.as_slice() else { panic!() };
    let rendered = render(&template, conversation)?;
    let learned = rendered.learned.iter().map(|span| rendered.text[span.clone()].to_owned());
    Ok((learned.collect(), rendered.partial, rendered.changed))
}

/// As DeepSeek's R1: the prompt opens the reasoning, and only what follows it is
/// kept of an answer.
const R1: &str = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<U>' + m.content }}\
    {% else %}{% set c = m.content %}{% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}\
    {{ '<A>' + c + eos_token }}{% endif %}{% endfor %}\
    {% if add_generation_prompt %}{{ '<A><think>\\n' }}{% endif %}";

/// As Qwen 3: reasoning is kept in the last answer alone.
const LAST_THINKS: &str = "{% for m in messages %}{% set c = m.content %}\
    {% if not loop.last and '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}\
    {{ '<' + m.role + '>' + c + '<end>' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}";

#[test]
fn answers_are_found_behind_a_prompt_that_opens_more() {
    let one = |answer: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "q"}}, {{"role": "assistant", "content": "{answer}"}}]}}"#
        )
    };
    for (answer, expected, partial) in [
        ("Yes.", "Yes.</s>", 0),
        ("<th", "<th</s>", 0),
        ("<think>hm</think>Yes.", "Yes.</s>", 1),
        ("<think>hm</think>", "</s>", 1),
    ] {
        let (learned, found, changed) = learned_of(R1, &one(answer)).unwrap();
        assert_eq!((learned.as_slice(), found, changed), (&[expected.to_owned()][..], partial, 0));
    }
    // A template that keeps the reasoning: the prompt's part of it is not learned.
    let keeps = R1.replace("c.split('</think>')[-1]", "c");
    let (learned, partial, _) = learned_of(&keeps, &one("<think>\\nhm</think>Yes.")).unwrap();
    assert_eq!((learned, partial), (vec!["hm</think>Yes.</s>".to_owned()], 0));
}

#[test]
fn turns_that_change_later_are_counted_and_not_learned() {
    let record = r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>a</think>b"}, {"role": "user", "content": "r"}, {"role": "assistant", "content": "<think>c</think>d"}]}"#;
    let found = learned_of(LAST_THINKS, record).unwrap();
    assert_eq!(found, (vec!["<think>c</think>d<end>".to_owned()], 0, 1));
}

#[test]
fn weights_and_tool_calls_are_honoured() {
    let tools = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}\
        {{ '<' + m.role + '>' }}{{ m.content if m.content }}\
        {% if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}{% endif %}{{ '<end>' }}\
        {% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}";
    let record = r#"{"tools": [{"b": NaN, "name": "f", "a": 1}], "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"z": 1, "a": 2}}}]}, {"role": "tool", "content": "t"}, {"role": "assistant", "content": "no", "weight": 0}, {"role": "user", "content": "x"}, {"role": "assistant", "content": "yes", "weight": 1}]}"#;
    let error = learned_of(tools, record).unwrap_err();
    assert!(error.contains("tools: number out of range"), "{error}");
    let record = record.replace("NaN", "0.5");
    let call = r#"{"name": "f", "arguments": {"z": 1, "a": 2}}<end>"#;
    let (learned, ..) = learned_of(tools, &record).unwrap();
    assert_eq!(learned, [call, "yes<end>"]);
    // What a template cannot say is refused by name.
    let deaf = tools.replace("tools | tojson", "'some tools'");
    assert!(learned_of(&deaf, &record).is_ok(), "the template names them");
    let error = learned_of(&tools.replace("tools", "utensils"), &record).unwrap_err();
    assert_eq!(error, "tools: the model's chat template does not use it");
    let error = learned_of(&tools.replace("tool_calls", "calls"), &record).unwrap_err();
    assert_eq!(error, "turn 1: tool_calls: the model's chat template does not use it");
    let error = learned_of(&tools.replace("m.tool_calls[0].function", "0"), &record).unwrap_err();
    assert!(error.contains("turn 1: tool_calls: the chat template leaves out"), "{error}");
}

#[test]
fn weighted_and_partial_turns_reach_tokens_and_counts() {
    let text = r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", "weight": 0}, {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "See you"}]}"#;
    let tokenizer = &checkpoint("tiny").tokenizer;
    let said = |options: &DataOptions| {
        let set = dataset("a.jsonl", text, options).unwrap();
        let example = &set.train[0];
        let places = example.ids.iter().zip(&example.learned);
        let ids: Vec<u32> = places.filter(|(_, l)| **l).map(|(id, _)| *id).collect();
        tokenizer.decode(&ids, false).unwrap()
    };
    assert_eq!(said(&OPTIONS), "See you<|im_end|>\n");
    let all = said(&DataOptions { train_on_prompt: true, ..OPTIONS });
    assert!(!all.contains("Hello") && all.contains("Bye"), "{all}");
    let counts = dataset("a.jsonl", text, &OPTIONS).unwrap().counts;
    assert!(counts.warnings().is_empty());
    let counts = adapruner_recover::data::Counts { partial_turns: 3, changed_turns: 2, ..counts };
    let warnings = counts.warnings().join("\n");
    assert!(warnings.contains("a part of 3 learned turns"), "{warnings}");
    assert!(warnings.contains("2 turns of the assistant are not learned"), "{warnings}");
}

#[test]
fn what_changes_a_record_and_is_not_read_is_refused() {
    let turn = |field: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "q"}}, {{"role": "assistant", "content": "a", {field}}}]}}"#
        )
    };
    for (text, parts) in [
        (r#"{"instruction": "a", "output": "b", "system": "c"}"#.into(), ["line 1", "\"system\""]),
        (
            r#"{"instruction": "a", "output": "b", "history": [["c", "d"]]}"#.into(),
            ["line 1", "\"history\""],
        ),
        (r#"{"instruction": "a", "output": "b", "tools": [1]}"#.into(), ["\"tools\"", "messages"]),
        (r#"{"text": "a", "weight": 0}"#.into(), ["line 1", "\"weight\""]),
        (r#"{"messages": [], "system": "c"}"#.into(), ["line 1", "\"system\""]),
        (r#"{"messages": [], "functions": [{}]}"#.into(), ["line 1", "\"functions\""]),
        (
            r#"{"messages": [], "tools": 3}"#.into(),
            ["\"tools\"", "an array expected, a number found"],
        ),
        (
            r#"{"messages": [{"role": "assistant", "content": null}]}"#.into(),
            ["turn 0", "\"content\": a string expected, null found"],
        ),
        (
            r#"{"messages": [{"role": "user", "content": "x", "weight": 1}]}"#.into(),
            ["turn 0", "\"weight\""],
        ),
        (turn("\"weight\": 0.5"), ["turn 1", "0.5 found"]),
        (turn("\"train\": false"), ["turn 1", "\"train\""]),
        (turn("\"function_call\": {\"name\": \"f\"}"), ["turn 1", "\"function_call\""]),
        (turn("\"content\": \"\\ud800\""), ["turn 1", "\"content\": unexpected end of hex escape"]),
    ] {
        let message = said(read("a.jsonl", &text));
        for part in parts {
            assert!(message.contains(part), "{part:?} not in {message}");
        }
    }
    for text in [
        r#"{"instruction": "a", "output": "b", "system": "", "history": [], "weight": 1}"#,
        r#"{"messages": [{"role": "user", "content": "q", "tool_calls": null, "function_call": null}]}"#,
    ] {
        assert!(read("a.jsonl", text).is_ok(), "{text}");
    }
}

/// Python writes NaN and halves of surrogate pairs.
#[test]
fn fields_that_are_not_read_may_hold_anything() {
    let text = r#"{"score": NaN, "x": [-Infinity, Infinity, "NaN \" NaN"], "y": {"z": "\ud800"}, "text": "NaN is \"Infinity\""}"#;
    for (name, whole) in [
        ("a.jsonl", text.to_owned()),
        ("a.json", format!("[{text}]")),
        ("a.json", format!("{text}\n{text}")),
    ] {
        let records = read(name, &whole).unwrap().records;
        assert_eq!(records[0].1, Record::Text("NaN is \"Infinity\"".into()));
    }
    for (text, part) in [
        (r#"{"text": NaN}"#, "field \"text\": a string expected, a number found"),
        (r#"{"text": "a\udc00"}"#, "field \"text\": lone"),
        (r#"[1, NaN]"#, "a token id"),
    ] {
        let message = said(read("a.jsonl", text));
        assert!(message.contains("line 1") && message.contains(part), "{message}");
    }
}

#[test]
fn the_end_of_a_text_is_learned_whoever_names_it() {
    let tiny = checkpoint("tiny");
    let eos = tiny.tokenizer.eos_id().unwrap();
    let source = crate::common::fixtures().join("models/tiny");
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_owned();
        let copied = ["config.json", "tokenizer.json", "model.safetensors"];
        if copied.iter().any(|copied| name == *copied) {
            std::fs::copy(&path, folder.path().join(name)).unwrap();
        }
    }
    let config = folder.path().join("config.json");
    let set = |file: &std::path::Path, eos: serde_json::Value| {
        let mut json: serde_json::Value = match std::fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap(),
            Err(_) => serde_json::json!({}),
        };
        json["eos_token_id"] = eos;
        std::fs::write(file, json.to_string()).unwrap();
    };
    let last = || {
        let model = adapruner_checkpoint::Checkpoint::open(folder.path()).unwrap();
        assert_eq!(model.tokenizer.eos_id(), None);
        let records = read("a.jsonl", r#"{"instruction": "Sing.", "output": "La la"}"#).unwrap();
        let set = Dataset::for_model(&records, &model, &OPTIONS).unwrap();
        let example = set.train[0].clone();
        assert!(example.learned.last().unwrap());
        *example.ids.last().unwrap()
    };
    set(&config, eos.into());
    assert_eq!(last(), eos);
    // Where generation stops comes before the model's own; the first of several.
    set(&folder.path().join("generation_config.json"), serde_json::json!([eos + 1, eos]));
    assert_eq!(last(), eos + 1);
}
