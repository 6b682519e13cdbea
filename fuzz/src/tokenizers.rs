//! Readers of tokenizers and chat templates.

use adapruner_checkpoint::tokenizer::{TextTokenizer, chat::Message, vocabulary::Role};

use crate::room::{folder, seed};

/// Texts that show most of what tokenizers do.
const TEXTS: [&str; 6] = [
    "",
    "Ida the beekeeper went to the market.",
    "  two  spaces\r\n\ttab \u{0}",
    "it's 1234567890 o'clock!!!???",
    "é e\u{301} ﬁ 中文 \u{1f600}\u{200d}\u{1f525} \u{feff}",
    "<|im_start|>user\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa<|im_end|><s></s>",
];

/// `tokenizer.json`.
pub(crate) fn tokenizer(bytes: &[u8]) {
    let config = seed!("tokenizer_config/tokenizer_config.json");
    let files = [("tokenizer.json", bytes), ("tokenizer_config.json", config)];
    if let Ok(tokenizer) = TextTokenizer::from_hf_folder(&folder("tokenizer", &files)) {
        exercise(&tokenizer);
    }
}

/// `tokenizer_config.json`.
pub(crate) fn tokenizer_config(bytes: &[u8]) {
    let json = seed!("tokenizer/tokenizer.json");
    let files = [("tokenizer.json", json), ("tokenizer_config.json", bytes)];
    if let Ok(tokenizer) = TextTokenizer::from_hf_folder(&folder("tokenizer_config", &files)) {
        exercise(&tokenizer);
        converse(&tokenizer);
    }
}

/// `chat_template.jinja`.
pub(crate) fn chat_template(bytes: &[u8]) {
    let files = [
        ("tokenizer.json", seed!("tokenizer/tokenizer.json")),
        ("tokenizer_config.json", seed!("tokenizer_config/tokenizer_config.json")),
        ("chat_template.jinja", bytes),
    ];
    if let Ok(tokenizer) = TextTokenizer::from_hf_folder(&folder("chat_template", &files)) {
        converse(&tokenizer);
    }
}

/// Encodes and decodes. A refusal is fine, an id beyond the vocabulary is not.
pub(crate) fn exercise(tokenizer: &TextTokenizer) {
    for text in TEXTS {
        let Ok(ids) = tokenizer.encode(text) else { continue };
        let vocab_size = tokenizer.vocab_size() as u32;
        assert!(ids.iter().all(|id| *id < vocab_size), "{ids:?} of {vocab_size}");
        let _ = tokenizer.decode(&ids, false);
        let _ = tokenizer.decode(&ids, true);
        let _ = tokenizer.encode_with_offsets(text);
    }
    let _ = tokenizer.hf_files();
    let _ = tokenizer.gguf_metadata(tokenizer.vocab_size());
    trim(tokenizer);
}

/// Most ids that are looked at: a file may name any number as one.
const MOST: usize = 1 << 20;

/// Leaves out every other token that may go, with those that are merged of it.
fn trim(tokenizer: &TextTokenizer) {
    let size = tokenizer.vocab_size();
    let bytes = tokenizer.predicted_bytes(&[vec![0, 1, u32::MAX]]);
    assert_eq!(bytes.len(), 1);
    if size > MOST {
        return;
    }
    let Ok(vocabulary) = tokenizer.vocabulary(size, &[]) else { return };
    let mut stays: Vec<bool> = (0..size as u32)
        .map(|id| match vocabulary.role(id) {
            Role::Required => true,
            Role::Free => id % 2 == 0,
            Role::Unreachable | Role::Unassigned => false,
        })
        .collect();
    let mut open: Vec<u32> = (0..size as u32).filter(|id| stays[*id as usize]).collect();
    while let Some(id) = open.pop() {
        for need in vocabulary.needs(id) {
            if !std::mem::replace(&mut stays[*need as usize], true) {
                open.push(*need);
            }
        }
    }
    let kept: Vec<u32> = (0..size as u32).filter(|id| stays[*id as usize]).collect();
    let Ok(trimmed) = tokenizer.trimmed(&kept, kept.len()) else { return };
    for text in TEXTS {
        let Ok(ids) = trimmed.encode(text) else { continue };
        assert!(ids.iter().all(|id| (*id as usize) < kept.len()), "{ids:?} of {}", kept.len());
    }
}

fn converse(tokenizer: &TextTokenizer) {
    let Ok(Some(template)) = tokenizer.chat() else { return };
    let turns = [("system", "Be brief."), ("user", "Who is Ida?"), ("assistant", "A beekeeper.")];
    let turns = turns.map(|(role, content)| Message::new(role, content));
    for (messages, prompt) in [(&turns[..], false), (&turns[1..2], true), (&[][..], false)] {
        let _ = template.render(messages, prompt);
    }
}
