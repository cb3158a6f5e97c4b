//! What to say about a mistake in a protobuf text: where it is, what is wrong, and what would be right.

use miette::Diagnostic;
use prost_reflect::text_format::ParseError;
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};

/// Names that differ in more letters are not meant.
const MOST_TYPOS: usize = 3;

/// `line:column: reason`, both from 1.
pub(crate) fn explain(error: &ParseError, pool: &DescriptorPool, text: &str) -> String {
    // An error without a place is one at the end of the text.
    let place = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
    let offset = place.unwrap_or(text.len()).min(text.len());
    let reason = error.to_string();
    let hint = hint(&reason, pool, text, offset).or_else(|| error.help().map(|help| help.to_string()));
    let (line, column) = position(text, offset);
    match hint {
        Some(hint) => format!("{line}:{column}: {reason}; {hint}"),
        None => format!("{line}:{column}: {reason}"),
    }
}

fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset];
    let line = memchr::memchr_iter(b'\n', before).count() + 1;
    let column = offset - memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1) + 1;
    (line, column)
}

/// The parser tells its reasons in words alone; the names in them are in quotes.
fn hint(reason: &str, pool: &DescriptorPool, text: &str, offset: usize) -> Option<String> {
    let mut names = reason.split('\'').skip(1).step_by(2);
    if reason.contains("not found for message") {
        let (field, message) = (names.next()?, names.next()?);
        return Some(about_field(field, &pool.get_message_by_name(message)?));
    }
    if reason.contains("not found for enum") {
        let values = pool.get_enum_by_name(names.nth(1)?)?;
        let values: Vec<_> = values.values().map(|value| value.name().to_owned()).collect();
        return Some(format!("it takes {}", values.join(", ")));
    }
    let found = text.get(offset..).and_then(|rest| rest.chars().next());
    let hint = if reason.contains("reached end of input") {
        let (line, column) = position(text, unclosed(text)?);
        return Some(format!("the brace in line {line}, column {column} is not closed"));
    } else if reason.contains("a field name") && matches!(found, Some('"' | '{' | '[')) {
        "this is protobuf text and not JSON: names have no quotes, and a list repeats its field"
    } else if reason.contains("a field name") && found == Some('/') {
        "a comment begins with #"
    } else if reason.starts_with("expected a string") {
        "text stands in quotes"
    } else if reason.starts_with("expected '{'") {
        "the field is a message: name { ... }"
    } else if reason.contains("':' or a message value") || reason == "invalid token" {
        "a field is written name: value, a message name { ... }"
    } else if reason.ends_with("is already set") {
        "it takes one value"
    } else {
        return None;
    };
    Some(hint.to_owned())
}

fn about_field(unknown: &str, message: &MessageDescriptor) -> String {
    let inside = message.fields().find(|field| match field.kind() {
        Kind::Message(inner) => inner.get_field_by_name(unknown).is_some(),
        _ => false,
    });
    if let Some(field) = inside {
        return format!("it belongs into {} {{ ... }}", field.name());
    }
    let names: Vec<_> = message.fields().map(|field| field.name().to_owned()).collect();
    let nearest = names.iter().map(|name| (typos(unknown, name), name)).min();
    match nearest {
        Some((count, name)) if count <= MOST_TYPOS.min(name.len() / 2) => format!("did you mean '{name}'?"),
        _ if names.is_empty() => "it has no fields".to_owned(),
        _ => format!("it has {}", names.join(", ")),
    }
}

/// How many letters have to be put in, taken out or replaced to make one name of the other.
fn typos(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (place, wanted) in other.bytes().enumerate() {
            let replaced = diagonal + usize::from(letter != wanted);
            diagonal = row[place + 1];
            row[place + 1] = replaced.min(diagonal + 1).min(row[place] + 1);
        }
    }
    row[other.len()]
}

/// Where the last brace stands that is opened and not closed.
fn unclosed(text: &str) -> Option<usize> {
    let mut open = Vec::new();
    let mut quote = None;
    let mut bytes = text.bytes().enumerate();
    while let Some((offset, byte)) = bytes.next() {
        match (quote, byte) {
            (Some(_), b'\\') => {
                bytes.next();
            }
            (Some(end), _) if byte == end => quote = None,
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'#') => {
                let _ = bytes.find(|(_, byte)| *byte == b'\n');
            }
            (None, b'{') => open.push(offset),
            (None, b'}') => {
                open.pop();
            }
            _ => {}
        }
    }
    if quote.is_some() { None } else { open.pop() }
}

#[cfg(test)]
mod tests {
    use crate::reflect::{ReflectError, encode_text};

    fn mistake(text: &str) -> String {
        match encode_text("tensorflow.serving.ModelServerConfig", text) {
            Err(ReflectError::Text(reason)) => reason,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn mistakes_are_located_and_what_would_be_right_is_told() {
        for (text, place, hint) in [
            ("model_config_list {\n config { nome: 'x' }\n}", "2:11", "did you mean 'name'?"),
            ("model_config_list { config { color: 3 } }", "1:30", "it has name, base_path, "),
            ("config { }", "1:1", "it belongs into model_config_list { ... }"),
            ("model_config_list { config { pinned: true } }", "1:30", "it belongs into servable { ... }"),
            ("model_config_list { config { name: x } }", "1:36", "text stands in quotes"),
            (
                "model_config_list { config { model_type: TF } }",
                "1:42",
                "it takes MODEL_TYPE_UNSPECIFIED, TENSORFLOW, ",
            ),
            (
                "model_config_list { config { name: 'x'\nname: 'y' } }",
                "2:7",
                "'name' is already set; it takes one value",
            ),
            ("model_config_list { # {\n config {\n name: '}'\n", "4:1", "the brace in line 2, column 9 is not closed"),
            ("model_config_list { 'config': { } }", "1:21", "expected '}' or a field name"),
            ("{ \"model_config_list\": {} }", "1:1", "this is protobuf text and not JSON"),
            ("model_config_list { \"config\": {} }", "1:21", "this is protobuf text and not JSON"),
            ("// models\n", "1:1", "a comment begins with #"),
            ("model_config_list { config { model_version_policy { latest: 2 } } }", "1:61", "name { ... }"),
            ("model_config_list { config { name = 'x' } }", "1:35", "a field is written name: value"),
            ("model_config_list { config { name 'x' } }", "1:35", "a field is written name: value"),
            (
                "model_config_list { config { model_version_policy { latest { num_versions: -1 } } } }",
                "1:76",
                "the value must be between 0 and 4294967295 inclusive",
            ),
        ] {
            let reason = mistake(text);
            assert!(reason.starts_with(&format!("{place}: ")), "{text}: {reason}");
            assert!(reason.contains(hint), "{text}: {reason}");
        }
    }
}
