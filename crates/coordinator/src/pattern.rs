//! Regular expressions that clients send, for topics' names and for transactional ids. Kafka uses RE2/J, whose syntax this is a
//! superset of.

/// Bytes that a compiled expression may take: an expression is a few characters, its program may be large.
const PROGRAM_BYTES_MAX: usize = 1 << 20;

/// The expression as a program that matches whole texts, in time linear in them.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn compile(expression: &str) -> Result<regex::Regex, String> {
    let whole = format!("^(?:{expression})$");
    let built = regex::RegexBuilder::new(&whole).size_limit(PROGRAM_BYTES_MAX).build();
    built.map_err(|error| error.to_string())
}
