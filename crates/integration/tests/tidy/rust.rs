//! What Rust source may hold.

use std::path::{Path, PathBuf};

use super::{files, none, read};
use ottla_integration::process::tools::root;

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// Tables made by a program, which no person reads from top to bottom. Their generators are beside them.
const GENERATED: &[&str] = &["crates/protocol/src/guard/table.rs"];

/// A source file: its code with comments and literals blanked, up to its test module.
struct Source {
    path: PathBuf,
    production: String,
}

/// Production sources of our crates: no tests, no benches, nothing generated.
fn sources() -> Vec<Source> {
    let is_test = |path: &Path| {
        path.components().any(|part| ["tests", "benches", "tests.rs"].iter().any(|name| part.as_os_str() == *name))
    };
    let rust = files().into_iter().filter(|path| {
        path.starts_with("crates")
            && path.extension().is_some_and(|ext| ext == "rs")
            && !is_test(path)
            && !GENERATED.iter().any(|generated| path == Path::new(generated))
    });
    rust.map(|path| Source { production: production(&blank(&read(&path))).to_owned(), path }).collect()
}

/// The part before the in-file test module.
fn production(code: &str) -> &str {
    let mut from = 0;
    while let Some(at) = code[from..].find("#[cfg(test)]").map(|at| at + from) {
        let rest = code[at + "#[cfg(test)]".len()..].trim_start();
        // `mod tests;` names a file that is a test; only an in-file module ends the production code.
        let ends = rest.starts_with("mod ") && rest.find('{').is_some_and(|b| rest.find(';').is_none_or(|s| b < s));
        if ends {
            return &code[..at];
        }
        from = at + 1;
    }
    code
}

/// The code with the insides of comments, strings and character literals turned into spaces; lines stay.
fn blank(code: &str) -> String {
    let bytes = code.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        match end {
            Some(end) => {
                for byte in &mut out[at..end.min(bytes.len())] {
                    if *byte != b'\n' {
                        *byte = b' ';
                    }
                }
                at = end;
            }
            None => at += 1,
        }
    }
    String::from_utf8(out).expect("whole characters were blanked")
}

/// Where the comment or literal that starts at `at` ends, if one starts there.
fn literal_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let inside_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => Some(at + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())),
        [b'/', b'*', ..] => Some(at + block_comment(rest)),
        [b'"', ..] => Some(at + string(rest)),
        [b'r' | b'b' | b'c', ..] if !inside_word => raw_string(rest).map(|length| at + length),
        [b'\'', b'\\', ..] => Some(at + 3 + rest[3..].iter().position(|&b| b == b'\'')?),
        // A character of one to four bytes between quotes; else the quote starts a lifetime.
        [b'\'', ..] => {
            (2..=5).find(|&n| rest.get(n) == Some(&b'\'') && (n == 2 || rest[1] >= 0x80)).map(|n| at + n + 1)
        }
        _ => None,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at + 1 < rest.len() {
        match &rest[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"…"`, `br#"…"#` and their kin; a plain `b"…"` is left to [`string`].
fn raw_string(rest: &[u8]) -> Option<usize> {
    let r = rest.iter().take(2).position(|&b| b == b'r')?;
    let hashes = rest[r + 1..].iter().take_while(|&&b| b == b'#').count();
    if rest.get(r + 1 + hashes) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let start = r + 2 + hashes;
    let length = rest[start..].windows(close.len()).position(|window| window == close)?;
    Some(start + length + close.len())
}

/// Lines in which `word` stands as a whole word (it may hold `::` or `!`).
fn lines_with<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.lines().enumerate().filter_map(move |(number, line)| {
        let hit = line.match_indices(word).any(|(at, _)| {
            !is_word(line[..at].chars().next_back()) && !is_word(line[at + word.len()..].chars().next())
        });
        hit.then_some(number + 1)
    })
}

/// Every use of one of `words` outside the files that `allowed` names.
fn uses(words: &[&str], allowed: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut offences = Vec::new();
    for source in sources().iter().filter(|source| !allowed(&source.path)) {
        for word in words {
            let lines = lines_with(&source.production, word);
            offences.extend(lines.map(|line| format!("{}:{line}: {word}", source.path.display())));
        }
    }
    offences
}

#[test]
fn files_are_short() {
    let offences = sources().into_iter().filter_map(|source| {
        let lines = source.production.lines().count();
        (lines > FILE_LINES_MAX).then(|| format!("{}: {lines} lines", source.path.display()))
    });
    none(&offences.collect::<Vec<_>>());
}

#[test]
fn functions_are_short() {
    let mut offences = Vec::new();
    for source in sources() {
        for (name, line, lines) in functions(&source.production) {
            if lines > FUNCTION_LINES_MAX {
                offences.push(format!("{}:{line}: {name} has {lines} lines", source.path.display()));
            }
        }
    }
    none(&offences);
}

/// Name, first line and number of lines of every function with a body.
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let preceded = code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if preceded || name.is_empty() {
            continue;
        }
        let mut brackets = 0;
        let ends_signature = |c: char| {
            brackets += i32::from("([".contains(c)) - i32::from(")]".contains(c));
            brackets == 0 && "{;".contains(c)
        };
        let Some(body) = code[at..].find(ends_signature).map(|body| body + at) else { continue };
        if code.as_bytes()[body] == b';' {
            continue;
        }
        let mut depth = 0;
        let end = code[body..].find(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth == 0
        });
        let Some(end) = end.map(|end| body + end) else { continue };
        let line = code[..at].lines().count().max(1);
        found.push((name, line, code[at..=end].lines().count()));
    }
    found
}

#[test]
fn only_one_module_reads_clocks() {
    // Benches time real work; everything else is handed a `Clock`.
    let allowed = |path: &Path| path == Path::new("crates/common/src/clock.rs") || path.starts_with("crates/benches");
    none(&uses(&["SystemTime::now", "Instant::now", "clock_gettime", "UNIX_EPOCH.elapsed"], allowed));
}

#[test]
fn only_one_module_makes_randomness() {
    let words = ["rand::rng", "rand::random", "thread_rng", "fastrand", "getrandom", "new_v4", "RandomState::new"];
    none(&uses(&words, |path| path == Path::new("crates/common/src/random.rs") || path == Path::new(ENTROPY)));
}

/// The simulation's stand-in for the system's randomness, which is a function of C.
const ENTROPY: &str = "crates/simulation/src/entropy.rs";

#[test]
fn unsafe_has_one_place() {
    let mut places: Vec<PathBuf> = Vec::new();
    for source in sources() {
        if lines_with(&source.production, "unsafe").next().is_some() && source.path != Path::new(ENTROPY) {
            places.push(source.path);
        }
    }
    assert!(
        places.len() <= 1 && places.iter().all(|path| path.starts_with("crates/wal/src")),
        "`unsafe` belongs in one audited file of the WAL: {places:?}"
    );
}

#[test]
fn nothing_is_left_to_do() {
    none(&uses(&["todo!", "unimplemented!", "dbg!"], |_| false));
}

#[test]
fn names_say_something() {
    let banned = ["util", "utils", "helper", "helpers", "misc", "stuff"];
    let bad = files().into_iter().filter(|path| {
        path.components().any(|part| {
            let name = part.as_os_str().to_string_lossy();
            banned.contains(&name.split('.').next().unwrap_or(""))
        })
    });
    none(&bad.map(|path| format!("{}: the name says nothing", path.display())).collect::<Vec<_>>());
}

mod tests {
    use super::{blank, functions, lines_with, production};

    #[test]
    fn literals_and_comments_are_blanked() {
        let code =
            "let a = \"todo!\"; // todo!\nlet b = r#\"x\" todo! \"#; /* /* */ todo! */ let c: &'a str = 'x'; '\\''";
        let blanked = blank(code);
        assert_eq!(lines_with(&blanked, "todo!").count(), 0, "{blanked}");
        assert_eq!(blanked.len(), code.len());
        assert!(blanked.contains("let c: &'a str"), "{blanked}");
        assert_eq!(lines_with("x = todo!(); my_todo!()\n a todo!", "todo!").collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn functions_are_measured() {
        let code = "fn a() {\n if x {\n }\n}\ntrait T { fn b(&self); fn c(&self) -> [u8; 2]\n {\n 1 } }";
        let found = functions(code);
        assert_eq!(found[0], ("a".to_owned(), 1, 4));
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn production_ends_at_the_test_module() {
        assert_eq!(
            production("a\n#[cfg(test)]\nmod tests;\nb\n#[cfg(test)]\nmod t {\n}"),
            "a\n#[cfg(test)]\nmod tests;\nb\n"
        );
    }
}

/// As `rustfmt.toml` says: a diff shows what changed, not who wrote it.
#[test]
fn the_tree_is_formatted() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = std::process::Command::new(cargo);
    let formatted = command.args(["fmt", "--all", "--check"]).current_dir(root()).output().expect("rustfmt runs");
    let diff = String::from_utf8_lossy(&formatted.stdout);
    let places: Vec<String> = diff.lines().filter(|line| line.starts_with("Diff in")).map(str::to_owned).collect();
    none(&places);
    assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stderr));
}
