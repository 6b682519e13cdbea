//! A writer of markup that is always balanced and always escaped.
//!
//! Elements are opened and closed around a closure, so none stays open. What
//! comes from data only gets in by [`Html::text`] and as the value of an
//! attribute; names and raw text are `'static`. The same writer makes SVG.

use std::fmt::{Display, Write as _};

/// The attributes of an element, in order.
pub(crate) type Attributes<'a> = &'a [(&'static str, &'a dyn Display)];

/// Markup being written.
pub(crate) struct Html {
    text: String,
}

impl Html {
    /// Begins with what must stand before the first element.
    pub(crate) fn new(prologue: &'static str) -> Self {
        Self { text: prologue.to_owned() }
    }

    /// What was written.
    pub(crate) fn finish(self) -> String {
        self.text
    }

    /// An element with content.
    pub(crate) fn element(
        &mut self,
        name: &'static str,
        attributes: Attributes<'_>,
        content: impl FnOnce(&mut Self),
    ) {
        self.start(name, attributes);
        self.text.push('>');
        content(self);
        self.text.push_str("</");
        self.text.push_str(name);
        self.text.push('>');
        if matches!(name, "p" | "tr" | "li" | "section" | "table" | "figure" | "style") {
            self.text.push('\n');
        }
    }

    /// An element that holds one piece of text.
    pub(crate) fn leaf(
        &mut self,
        name: &'static str,
        attributes: Attributes<'_>,
        text: impl Display,
    ) {
        self.element(name, attributes, |html| html.text(text));
    }

    /// An element without content.
    pub(crate) fn void(&mut self, name: &'static str, attributes: Attributes<'_>) {
        self.start(name, attributes);
        self.text.push_str("/>");
    }

    /// Text, escaped.
    pub(crate) fn text(&mut self, text: impl Display) {
        escape(&text.to_string(), &mut self.text);
    }

    /// Markup of our own.
    pub(crate) fn raw(&mut self, text: &'static str) {
        self.text.push_str(text);
    }

    fn start(&mut self, name: &'static str, attributes: Attributes<'_>) {
        self.text.push('<');
        self.text.push_str(name);
        for (key, value) in attributes {
            self.text.push(' ');
            self.text.push_str(key);
            self.text.push_str("=\"");
            escape(&value.to_string(), &mut self.text);
            self.text.push('"');
        }
    }
}

/// Appends `text` so that markup cannot begin or end in it, and nothing in it
/// stays unseen: controls, marks of direction and characters of no width are
/// written as their code.
fn escape(text: &str, to: &mut String) {
    for letter in text.chars() {
        match letter {
            '&' => to.push_str("&amp;"),
            '<' => to.push_str("&lt;"),
            '>' => to.push_str("&gt;"),
            '"' => to.push_str("&quot;"),
            '\'' => to.push_str("&#39;"),
            '\n' | '\t' => to.push(letter),
            hidden if is_hidden(hidden) => {
                write!(to, "[U+{:04X}]", u32::from(hidden)).expect("a string takes all");
            }
            shown => to.push(shown),
        }
    }
}

/// Whether a character is a control, a mark of direction, of no width, or no
/// character at all.
fn is_hidden(letter: char) -> bool {
    let code = u32::from(letter);
    letter.is_control()
        || matches!(code, 0x00AD | 0x061C | 0x180E | 0x200B | 0x200E..=0x200F | 0x2028..=0x202E)
        || matches!(code, 0x2060..=0x206F | 0xFDD0..=0xFDEF | 0xFEFF | 0xFFF9..=0xFFFB)
        || matches!(code, 0xE0000..=0xE007F)
        || code & 0xFFFE == 0xFFFE
}

#[cfg(test)]
mod tests {
    use super::Html;

    #[test]
    fn data_cannot_begin_markup() {
        let mut html = Html::new("");
        html.leaf("p", &[("title", &"\" onload='x'")], "</p><script>&\u{202e}\0");
        assert_eq!(
            html.finish(),
            "<p title=\"&quot; onload=&#39;x&#39;\">&lt;/p&gt;&lt;script&gt;&amp;\
             [U+202E][U+0000]</p>\n"
        );
    }

    #[test]
    fn joiners_and_marks_of_writing_systems_stay() {
        let mut html = Html::new("");
        html.text("क्\u{200d}ष é שלום");
        assert_eq!(html.finish(), "क्\u{200d}ष é שלום");
    }
}
