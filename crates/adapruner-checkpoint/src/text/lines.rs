//! Texts whose lines are rows, in the form that the Hugging Face data sets give
//! them, and the paragraphs of plain text.

/// The rows of a raw WikiText file: a line with its `\n`, or the empty string
/// where the line is blank.
pub(super) fn wikitext(text: &str) -> Vec<String> {
    text.split_inclusive('\n')
        .map(|line| {
            if line.trim().is_empty() {
                return String::new();
            }
            match line.strip_suffix("\r\n") {
                Some(line) => format!("{line}\n"),
                None => line.to_owned(),
            }
        })
        .collect()
}

/// Lines without the space around them.
pub(super) fn stripped(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim().to_owned()).collect()
}

/// The blocks between blank lines, each with its inner line breaks and without
/// its last one.
pub(super) fn paragraphs(text: &str) -> Vec<&str> {
    let mut blocks = Vec::new();
    let mut block: Option<(usize, usize)> = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let end = at + line.trim_end_matches(['\n', '\r']).len();
        if line.trim().is_empty() {
            blocks.extend(block.take());
        } else {
            block = Some((block.map_or(at, |(start, _)| start), end));
        }
        at += line.len();
    }
    blocks.extend(block);
    blocks.into_iter().map(|(start, end)| &text[start..end]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wikitext_rows_are_those_of_the_data_set() {
        let rows = wikitext(" \n = A = \n \n one <unk> \n\ntwo\r\n\t\nend");
        assert_eq!(rows, ["", " = A = \n", "", " one <unk> \n", "", "two\n", "", "end"]);
    }

    #[test]
    fn ptb_rows_are_stripped() {
        assert_eq!(stripped(" a <unk> N \n\n b\r\n"), ["a <unk> N", "", "b"]);
    }

    #[test]
    fn paragraphs_lie_between_blank_lines() {
        assert_eq!(paragraphs("\n\none\n  two \n \n\r\nthree\r\n"), ["one\n  two ", "three"]);
        assert!(paragraphs(" \n\n").is_empty());
        assert_eq!(paragraphs("x"), ["x"]);
    }
}
