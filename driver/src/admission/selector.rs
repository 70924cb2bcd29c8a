//! What can be said about a CEL selector without evaluating it: whether it is exactly the one that holds a request to
//! single-die hardware, and which words it mentions.

/// The selector that holds a request to single-die hardware, as messages write it.
pub const SINGLE_DIE: &str = r#"device.attributes["vnpu.dev"].dies == 1"#;

/// Whether the expression is exactly [`SINGLE_DIE`], spaces aside. As a part of a longer expression it could be
/// negated or or-ed away, so it does not count there.
pub fn is_single_die(expression: &str) -> bool {
    const WORDS: &str = r#"device.attributes["vnpu.dev"].dies==1"#;
    expression.chars().filter(|c| !matches!(c, ' ' | '\t' | '\r' | '\n')).eq(WORDS.chars())
}

/// The first of `words` that the expression mentions, as an identifier or as a whole string literal; comments and
/// longer texts do not count.
pub fn mentions<'w>(expression: &str, words: &[&'w str]) -> Option<&'w str> {
    tokens(expression).into_iter().find_map(|token| words.iter().find(|word| **word == token).copied())
}

/// The first of `words` that the expression mentions, when it can only be true for one value of it: it compares with
/// `==`, and nothing in it negates, chooses or looks into a list.
pub fn equals<'w>(expression: &str, words: &[&'w str]) -> Option<&'w str> {
    const OTHERWISE: &[&str] = &["in", "exists", "matches", "startsWith", "endsWith", "contains"];
    let loose = expression.contains("||") || expression.contains('!') || expression.contains(" ? ");
    let otherwise = loose || mentions(expression, OTHERWISE).is_some() || !expression.contains("==");
    if otherwise { None } else { mentions(expression, words) }
}

/// The identifiers and the contents of string literals, in order.
pub(crate) fn tokens(expression: &str) -> Vec<String> {
    let characters: Vec<char> = expression.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(&character) = characters.get(at) {
        let rest = characters.get(at..).unwrap_or_default();
        at += if character == '_' || character.is_ascii_alphabetic() {
            let length = rest.iter().take_while(|c| **c == '_' || c.is_ascii_alphanumeric()).count();
            let word: String = rest.iter().take(length).collect();
            let quoted = matches!(rest.get(length), Some('"' | '\''));
            if quoted && is_prefix(&word) {
                let (literal, quoted) = literal(rest.get(length..).unwrap_or_default(), has_raw(&word));
                found.push(literal);
                length + quoted
            } else {
                found.push(word);
                length
            }
        } else if character == '"' || character == '\'' {
            let (literal, length) = literal(rest, false);
            found.push(literal);
            length
        } else if rest.starts_with(&['/', '/']) {
            rest.iter().take_while(|c| **c != '\n').count()
        } else {
            1
        };
    }
    found
}

/// `r`, `b` and both may stand before a literal.
fn is_prefix(word: &str) -> bool {
    matches!(word.to_ascii_lowercase().as_str(), "r" | "b" | "rb" | "br")
}

fn has_raw(prefix: &str) -> bool {
    prefix.contains(['r', 'R'])
}

/// The content of the literal at the beginning of `rest`, escapes as they are written, and its length with the
/// quotes. One that does not end goes to the end.
fn literal(rest: &[char], raw: bool) -> (String, usize) {
    let Some(&quote) = rest.first() else { return (String::new(), 1) };
    let triple = [quote; 3];
    let marks = if rest.starts_with(&triple) { 3 } else { 1 };
    let end = triple.get(..marks).unwrap_or_default();
    let mut content = String::new();
    let mut at = marks;
    while let Some(&character) = rest.get(at) {
        if rest.get(at..).is_some_and(|r| r.starts_with(end)) {
            return (content, at + marks);
        }
        content.push(character);
        at += 1;
        if character == '\\' && !raw {
            content.extend(rest.get(at));
            at += 1;
        }
    }
    (content, rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_single_die_selector_counts() {
        for yes in [
            SINGLE_DIE,
            r#"device.attributes["vnpu.dev"].dies==1"#,
            " device.attributes[\"vnpu.dev\"].dies\n == 1\t",
        ] {
            assert!(is_single_die(yes), "{yes}");
        }
        for no in [
            r#"device.attributes["vnpu.dev"].dies == 10"#,
            r#"device.attributes["vnpu.dev"].dies == 1 || true"#,
            r#"!(device.attributes["vnpu.dev"].dies == 1)"#,
            r#"device.attributes['vnpu.dev'].dies == 1"#,
            "",
        ] {
            assert!(!is_single_die(no), "{no}");
        }
    }

    #[test]
    fn words_are_found_as_identifiers_and_literals_only() {
        const WORDS: &[&str] = &["type", "chips", "capacity", "pcieRoot"];
        for (expression, found) in [
            (r#"device.attributes["vnpu.dev"].type == "chip""#, Some("type")),
            (r#"device.attributes["vnpu.dev"]["type"] == "chip""#, Some("type")),
            (r#"device.attributes["vnpu.dev"]['chips'] == 1"#, Some("chips")),
            (r#"device.attributes["vnpu.dev"][r"type"] == "chip""#, Some("type")),
            (r#"device.capacity["vnpu.dev"].memory.compareTo(quantity("32Gi")) >= 0"#, Some("capacity")),
            (
                r#"device.attributes["resource.kubernetes.io"].?pcieRoot.orValue("") == "pci0000:00""#,
                Some("pcieRoot"),
            ),
            (r#"device.attributes["vnpu.dev"].model == "910C""#, None),
            (r#"device.attributes["vnpu.dev"].productName == "a type of capacity""#, None),
            (r#"device.attributes["vnpu.dev"].prototype == "x""#, None),
            ("// type\ntrue", None),
            (r#"device.attributes["vnpu.dev"].model == "\"type""#, None),
            (r#"device.attributes["vnpu.dev"].model == """a "type" b""""#, None),
            (r#"device.attributes["vnpu.dev"].model == "open"#, None),
            ("", None),
        ] {
            assert_eq!(mentions(expression, WORDS), found, "{expression}");
        }
    }

    #[test]
    fn only_an_equality_names_one_device() {
        const WORDS: &[&str] = &["uuid", "pciBusID"];
        for (expression, found) in [
            (r#"device.attributes["vnpu.dev"].uuid == "A""#, Some("uuid")),
            (
                r#"device.attributes["resource.kubernetes.io"].?pciBusID.orValue("") == "0000:81:00.0""#,
                Some("pciBusID"),
            ),
            (
                r#"device.attributes["vnpu.dev"].model == "910C" && device.attributes["vnpu.dev"].uuid == "A""#,
                Some("uuid"),
            ),
            (r#"device.attributes["vnpu.dev"].uuid != "A""#, None),
            (r#"!(device.attributes["vnpu.dev"].uuid == "A")"#, None),
            (r#"device.attributes["vnpu.dev"].uuid in ["A", "B"]"#, None),
            (
                r#"device.attributes["vnpu.dev"].uuid == "A" || device.attributes["vnpu.dev"].uuid == "B""#,
                None,
            ),
            (r#"device.attributes["vnpu.dev"].uuid.startsWith("A") == true"#, None),
            (r#"device.attributes["vnpu.dev"].model == "910C""#, None),
        ] {
            assert_eq!(equals(expression, WORDS), found, "{expression}");
        }
    }

    #[test]
    fn any_text_is_read_to_its_end() {
        for text in ["\"", "'''", "r\"", "\\", "a\\\"b", "//", "\"\\", "ü type ü"] {
            tokens(text);
        }
        assert_eq!(mentions("ü type ü", &["type"]), Some("type"));
    }
}
