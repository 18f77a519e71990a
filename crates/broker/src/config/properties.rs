//! The syntax of Java's `.properties` files, as `server.properties` uses it.

use std::collections::HashMap;
use std::ffi::OsString;

use super::load::is_known_key;

/// Properties in the order given, each name once: a later value replaces an earlier one in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    entries: Vec<(String, String)>,
    positions: HashMap<String, usize>,
}

/// Text that is not a properties file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct PropertiesError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: String,
}

impl Properties {
    /// Reads a whole file.
    ///
    /// # Errors
    /// A malformed `\uXXXX` escape, the only syntax error there is.
    pub fn parse(text: &str) -> Result<Self, PropertiesError> {
        let mut properties = Self::default();
        for (line, logical) in logical_lines(text) {
            let (key, value) = split(&logical);
            let unescape = |raw: &str| unescape(raw).map_err(|problem| PropertiesError { line, problem });
            properties.set(unescape(key)?, unescape(value)?);
        }
        Ok(properties)
    }

    /// Sets a property; the last call wins.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        let (key, value) = (key.into(), value.into());
        if let Some(&position) = self.positions.get(&key) {
            self.entries[position].1 = value;
        } else {
            self.positions.insert(key.clone(), self.entries.len());
            self.entries.push((key, value));
        }
    }

    /// Sets a property from `key=value`, as `-x` gives it.
    ///
    /// # Errors
    /// Text without `=` or without a key.
    pub fn set_override(&mut self, assignment: &str) -> Result<(), String> {
        match assignment.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                self.set(key.trim(), value.trim());
                Ok(())
            }
            _ => Err(format!("'{assignment}' is not of the form key=value")),
        }
    }

    /// Sets properties from environment variables: `KAFKA_NUM_PARTITIONS` sets `num.partitions`,
    /// `OTTLA_WAL_URL` sets `ottla.wal.url`. Variables that spell no known key are somebody else's.
    pub fn set_from_environment(&mut self, variables: impl Iterator<Item = (OsString, OsString)>) {
        let mut found = Vec::new();
        for (variable, value) in variables {
            let (Some(variable), Some(value)) = (variable.to_str(), value.to_str()) else { continue };
            let dotted = |name: &str| name.to_ascii_lowercase().replace('_', ".");
            let key = match variable.strip_prefix("KAFKA_") {
                Some(name) => dotted(name),
                None if variable.starts_with("OTTLA_") => dotted(variable),
                None => continue,
            };
            if is_known_key(&key) {
                found.push((key, value.to_owned()));
            }
        }
        // The environment has no order of its own.
        found.sort();
        found.into_iter().for_each(|(key, value)| self.set(key, value));
    }

    /// The value of a property.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.positions.get(key).map(|&position| self.entries[position].1.as_str())
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// All of them, in order.
    #[must_use]
    pub fn into_entries(self) -> Vec<(String, String)> {
        self.entries
    }
}

/// Lines without comments and blank lines, continuations joined, each with the number of its first line.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut pending: Option<(usize, String)> = None;
    // `\r\n` and a lone `\r` end lines too. Replacing them first keeps the count right.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    for (index, natural) in text.split('\n').enumerate() {
        let natural = natural.trim_start_matches([' ', '\t', '\u{c}']);
        if pending.is_none() && (natural.is_empty() || natural.starts_with(['#', '!'])) {
            continue;
        }
        let (number, mut line) = pending.take().unwrap_or((index + 1, String::new()));
        let backslashes = natural.bytes().rev().take_while(|&byte| byte == b'\\').count();
        if backslashes % 2 == 1 {
            line.push_str(&natural[..natural.len() - 1]);
            pending = Some((number, line));
        } else {
            line.push_str(natural);
            lines.push((number, line));
        }
    }
    lines.extend(pending.filter(|(_, line)| !line.is_empty()));
    lines
}

/// Key and value of a logical line: separated by the first unescaped `=`, `:` or white space.
fn split(line: &str) -> (&str, &str) {
    let is_space = |byte: u8| matches!(byte, b' ' | b'\t' | b'\x0c');
    let bytes = line.as_bytes();
    let mut end = 0;
    while end < bytes.len() && !is_space(bytes[end]) && !matches!(bytes[end], b'=' | b':') {
        end += if bytes[end] == b'\\' { 2 } else { 1 };
    }
    // An escape at the very end may have carried us past it.
    let end = end.min(bytes.len());
    let mut start = end;
    let mut separator_seen = false;
    while start < bytes.len() {
        match bytes[start] {
            byte if is_space(byte) => start += 1,
            b'=' | b':' if !separator_seen => {
                separator_seen = true;
                start += 1;
            }
            _ => break,
        }
    }
    let end = (end..=line.len()).find(|&at| line.is_char_boundary(at)).unwrap_or(line.len());
    (&line[..end], &line[start.max(end)..])
}

fn unescape(raw: &str) -> Result<String, String> {
    let mut text = String::with_capacity(raw.len());
    let mut units: Vec<u16> = Vec::new();
    let mut characters = raw.chars();
    while let Some(character) = characters.next() {
        let escaped = if character == '\\' { characters.next() } else { None };
        if escaped == Some('u') {
            units.push(hexadecimal(&mut characters)?);
            continue;
        }
        text.extend(char::decode_utf16(units.drain(..)).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)));
        match escaped {
            Some('t') => text.push('\t'),
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('f') => text.push('\u{c}'),
            Some(other) => text.push(other),
            None if character == '\\' => {}
            None => text.push(character),
        }
    }
    text.extend(char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)));
    Ok(text)
}

fn hexadecimal(characters: &mut std::str::Chars<'_>) -> Result<u16, String> {
    let digits: String = characters.by_ref().take(4).collect();
    let valid = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    valid
        .then(|| u16::from_str_radix(&digits, 16).ok())
        .flatten()
        .ok_or_else(|| format!("\\u{digits} is not a Unicode escape of four hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, String)> {
        Properties::parse(text).expect("valid").into_entries()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn separators_comments_and_blanks() {
        let text = "# comment\n ! another\n\na=1\nb:2\n  c 3\nd = 4 \ne\nf==5\ng : = 6\n";
        let expected = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4 "), ("e", ""), ("f", "=5"), ("g", "= 6")];
        assert_eq!(parsed(text), pairs(&expected));
    }

    #[test]
    fn continuations_join_and_drop_leading_blanks() {
        assert_eq!(parsed("a=1,\\\n   2,\\\r\n\t3\nb=c\\\\\nd=e"), pairs(&[("a", "1,2,3"), ("b", "c\\"), ("d", "e")]));
        assert_eq!(parsed("a=1\\"), pairs(&[("a", "1")]));
        assert_eq!(parsed("a=1\\\n# no comment"), pairs(&[("a", "1# no comment")]));
    }

    #[test]
    fn escapes() {
        let text = "a\\=b\\:c\\ d=x\\ty\\n\\u00e9\\ud83d\\ude00\\q\nC:\\\\x=1";
        assert_eq!(parsed(text), pairs(&[("a=b:c d", "x\ty\n\u{e9}\u{1f600}q"), ("C", "\\x=1")]));
        assert_eq!(Properties::parse("ok=1\nbad=\\u12g4").expect_err("bad escape").line, 2);
        assert_eq!(parsed("ü\\"), pairs(&[("ü", "")]));
        assert_eq!(parsed("a\\ü=1"), pairs(&[("aü", "1")]));
    }

    #[test]
    fn the_environment_spells_keys_in_capitals() {
        let mut properties = Properties::default();
        let variables = [
            ("KAFKA_NUM_PARTITIONS", "3"),
            ("OTTLA_WAL_URL", "file:///w"),
            ("KAFKA_HEAP_OPTS", "-Xmx1g"),
            ("OTTLA_LOG", "debug"),
            ("NUM_PARTITIONS", "9"),
        ];
        properties.set_from_environment(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
        assert_eq!(properties.into_entries(), pairs(&[("num.partitions", "3"), ("ottla.wal.url", "file:///w")]));
    }

    #[test]
    fn the_last_value_wins() {
        let mut properties = Properties::parse("a=1\nb=2\na=3").expect("valid");
        properties.set_override("b = 4").expect("assignment");
        assert_eq!(properties.clone().into_entries(), pairs(&[("a", "3"), ("b", "4")]));
        assert!(properties.set_override("nothing").is_err());
        assert!(properties.set_override("=x").is_err());
    }
}
