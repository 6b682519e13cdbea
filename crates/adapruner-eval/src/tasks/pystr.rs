//! Strings as Python treats them, because the harness is written in it.

/// Whether Python's `str.isspace` holds: white space of Unicode, and the four
/// separators of ASCII.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.strip`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.rstrip`.
pub fn strip_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// `str.capitalize`: the first character up, the rest down. A character whose
/// upper case is several (ß) keeps only the first of them up.
pub fn capitalise(text: &str) -> String {
    let mut characters = text.chars();
    let Some(first) = characters.next() else { return String::new() };
    let mut up = first.to_uppercase();
    let mut out: String = up.next().into_iter().collect();
    out.extend(up.flat_map(char::to_lowercase));
    out.push_str(&characters.as_str().to_lowercase());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    // Expected values: CPython 3.12.
    #[test]
    fn as_python_does() {
        assert_eq!(capitalise("a few WOMEN"), "A few women");
        assert_eq!(capitalise(""), "");
        assert_eq!(capitalise("ßA"), "Ssa");
        assert_eq!(capitalise("é É"), "É é");
        assert_eq!(strip("\u{1f} \u{a0}a b\u{2028}\n"), "a b");
        assert_eq!(strip("\u{200b}a"), "\u{200b}a");
        assert_eq!(strip_end(" a\t\u{3000}"), " a");
    }
}
