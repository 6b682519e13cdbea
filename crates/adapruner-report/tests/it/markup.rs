//! A strict reader of the markup that we write: every element closed in order,
//! every attribute quoted and given once, every ampersand an entity.

/// What a page was read as.
#[derive(Debug, Default)]
pub(crate) struct Markup {
    /// Elements by name, in order.
    pub(crate) elements: Vec<Element>,
    /// All text outside the style sheet, with entities resolved.
    pub(crate) text: String,
}

/// An element's beginning.
#[derive(Debug)]
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) attributes: Vec<(String, String)>,
}

/// Reads a page.
///
/// # Errors
///
/// Anything that is not balanced, quoted and escaped, with what follows it.
pub(crate) fn read(page: &str) -> Result<Markup, String> {
    let mut rest = page.strip_prefix("<!DOCTYPE html>\n").ok_or("no document type")?;
    let mut markup = Markup::default();
    let mut open: Vec<String> = Vec::new();
    while !rest.is_empty() {
        let here = || rest.chars().take(60).collect::<String>();
        if open.last().is_some_and(|name| name == "style") && !rest.starts_with("</style>") {
            let end = rest.find("</").ok_or("style not closed")?;
            rest = &rest[end..];
        } else if let Some(after) = rest.strip_prefix("</") {
            let (name, after) = after.split_once('>').ok_or_else(here)?;
            match open.pop() {
                Some(last) if last == name => {}
                last => return Err(format!("{last:?} closed by {name} at {}", here())),
            }
            rest = after;
        } else if let Some(after) = rest.strip_prefix('<') {
            let (element, is_void, after) = start(after).map_err(|what| what + &here())?;
            if !is_void {
                open.push(element.name.clone());
            }
            markup.elements.push(element);
            rest = after;
        } else {
            let end = rest.find('<').unwrap_or(rest.len());
            if open.is_empty() && !rest[..end].trim().is_empty() {
                return Err(format!("text outside: {}", here()));
            }
            markup.text.push_str(&unescaped(&rest[..end])?);
            rest = &rest[end..];
        }
    }
    if open.is_empty() { Ok(markup) } else { Err(format!("left open: {open:?}")) }
}

fn start(text: &str) -> Result<(Element, bool, &str), String> {
    let end = text.find(|letter: char| !letter.is_ascii_alphanumeric()).ok_or("no end")?;
    let name = text[..end].to_owned();
    if name.is_empty() {
        return Err("an element without a name: ".to_owned());
    }
    let mut rest = &text[end..];
    let mut attributes: Vec<(String, String)> = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix("/>") {
            return Ok((Element { name, attributes }, true, after));
        }
        if let Some(after) = rest.strip_prefix('>') {
            return Ok((Element { name, attributes }, false, after));
        }
        let after = rest.strip_prefix(' ').ok_or("no space before an attribute: ")?;
        let (key, after) = after.split_once("=\"").ok_or("an attribute without quotes: ")?;
        let (value, after) = after.split_once('"').ok_or("an attribute not closed: ")?;
        let is_name = |letter: char| letter.is_ascii_alphabetic() || letter == '-';
        if !key.chars().all(is_name) || attributes.iter().any(|(other, _)| other == key) {
            return Err(format!("attribute {key:?}: "));
        }
        if value.contains('<') {
            return Err(format!("a bare < in {key}: "));
        }
        attributes.push((key.to_owned(), unescaped(value)?));
        rest = after;
    }
}

fn unescaped(text: &str) -> Result<String, String> {
    let mut parts = text.split('&');
    let mut plain = parts.next().unwrap_or("").to_owned();
    for part in parts {
        let (entity, rest) = part.split_once(';').ok_or_else(|| format!("a bare & at {part}"))?;
        plain.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "#39" => '\'',
            other => return Err(format!("an unknown entity {other:?}")),
        });
        plain.push_str(rest);
    }
    match plain.chars().find(|letter| letter.is_control() && !matches!(letter, '\n' | '\t')) {
        Some(control) => Err(format!("a control character {control:?} in {plain:?}")),
        None => Ok(plain),
    }
}

#[test]
fn the_reader_refuses_what_is_not_well_formed() {
    let bad = [
        "<p><b></p></b>",
        "<p>",
        "<p>a & b</p>",
        "<p>&nbsp;</p>",
        "<p class=a></p>",
        "<p a=\"1\" a=\"2\"></p>",
        "<p>\u{7}</p>",
        "</p>",
        "loose",
    ];
    for text in bad {
        assert!(read(&format!("<!DOCTYPE html>\n{text}")).is_err(), "{text} was taken");
    }
    assert!(read("<!DOCTYPE html>\n<p class=\"a\">a &amp; <br/>b</p>").is_ok());
}
