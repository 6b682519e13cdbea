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
    let turn = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let turns = [turn("system", "Be brief."), turn("user", " Hi "), turn("assistant", "Yes")];
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
        ("a.json", "[1, 2", vec!["line 1"]),
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
    assert_eq!(kinds[1], Record::Chat(Vec::new()));
    assert!(matches!(&kinds[2], Record::Instruction { output, .. } if output == "o"));
    assert_eq!(kinds[3], Record::Ids(vec![1, 2]));
}
