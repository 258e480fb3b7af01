//! As much XML as an object store answers with: elements that hold text, or such elements. No entities but the five.

/// What stands inside each element of this name, in order. They must not nest.
pub(super) fn elements<'x>(xml: &'x str, name: &str) -> impl Iterator<Item = &'x str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(open.as_str())?;
        let (inside, after) = after.split_once(close.as_str())?;
        rest = after;
        Some(inside)
    })
}

/// The text of the first element of this name.
pub(super) fn text(xml: &str, name: &str) -> Option<String> {
    elements(xml, name).next().map(unescaped)
}

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let known = after.split_once(';').and_then(|(entity, after)| Some((character(entity)?, after)));
        match known {
            Some((char, after)) => {
                out.push(char);
                rest = after;
            }
            None => {
                out.push('&');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

fn character(entity: &str) -> Option<char> {
    Some(match entity {
        "amp" => '&',
        "apos" => '\'',
        "gt" => '>',
        "lt" => '<',
        "quot" => '"',
        _ => {
            let number = entity.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_and_unescaped() {
        let xml = "<L><C><Key>a&amp;b</Key><Size>1</Size></C><C><Key>&lt;&#233;&#xe9;&bad;&</Key></C><C><Key>open";
        let entries: Vec<_> = elements(xml, "C").collect();
        assert_eq!(entries.len(), 2);
        assert_eq!(text(entries[0], "Key").as_deref(), Some("a&b"));
        assert_eq!(text(entries[1], "Key").as_deref(), Some("<éé&bad;&"));
        assert_eq!(text(entries[1], "Size"), None);
        assert_eq!(text("", "Key"), None);
    }
}
