//! Regular expressions for transactional ids (ListTransactions 2, KIP-1152), matched against the whole id.
//!
//! What Kafka leaves to Java, as far as ids need it: characters, `.`, classes, `\d \w \s` and their opposites, groups,
//! `|`, `*`, `+`, `?`, `{n,m}` (greedy or not, which is the same for a whole match), `^`, `$`. References back, looking
//! around and possessive quantifiers are refused like any bad pattern: they cannot be matched in bounded time. Here it
//! takes at most (instructions · characters) steps, and instructions are bounded.

use std::iter::Peekable;
use std::str::Chars;

/// Bytes of a pattern.
const PATTERN_BYTES_MAX: usize = 1_000;
/// Instructions of a pattern; repetitions with a count are written out.
const INSTRUCTIONS_MAX: usize = 1_000;
/// Groups within groups.
const DEPTH_MAX: usize = 32;

/// The text is no pattern, or one that is not supported, or too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InvalidPattern;

type Result<T> = std::result::Result<T, InvalidPattern>;

/// Characters, as inclusive ranges, or all others.
#[derive(Clone, Debug, Default)]
struct CharSet {
    ranges: Vec<(char, char)>,
    is_negated: bool,
}

impl CharSet {
    fn one(character: char) -> Self {
        Self { ranges: vec![(character, character)], is_negated: false }
    }

    fn contains(&self, character: char) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&character)) != self.is_negated
    }
}

#[derive(Clone, Debug)]
enum Node {
    Set(CharSet),
    Start,
    End,
    Concat(Vec<Node>),
    Either(Vec<Node>),
    Repeat { node: Box<Node>, min: usize, max: Option<usize> },
}

#[derive(Clone, Debug)]
enum Instruction {
    /// Takes one character.
    Take(CharSet),
    /// Goes on at both.
    Split(usize, usize),
    Jump(usize),
    AtStart,
    AtEnd,
    Match,
}

/// A pattern, ready to match.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    program: Vec<Instruction>,
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(InvalidPattern);
        }
        let mut parser = Parser { rest: text.chars().peekable(), depth: 0 };
        let node = parser.either()?;
        // What is left begins with a parenthesis that closes nothing.
        if parser.rest.peek().is_some() {
            return Err(InvalidPattern);
        }
        let mut pattern = Self { program: Vec::new() };
        pattern.compile(&node)?;
        pattern.emit(Instruction::Match)?;
        Ok(pattern)
    }

    /// Whether the pattern matches the whole text.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let mut threads = Threads::new(self.program.len());
        threads.enter(&self.program, 0, true, text.is_empty());
        let mut rest = text.chars();
        while let Some(character) = rest.next() {
            let is_end = rest.as_str().is_empty();
            let mut next = Threads::new(self.program.len());
            for at in threads.taking {
                let Instruction::Take(set) = &self.program[at] else { continue };
                if set.contains(character) {
                    next.enter(&self.program, at + 1, false, is_end);
                }
            }
            if next.taking.is_empty() && !next.is_match {
                return false;
            }
            threads = next;
        }
        threads.is_match
    }

    fn emit(&mut self, instruction: Instruction) -> Result<usize> {
        if self.program.len() >= INSTRUCTIONS_MAX {
            return Err(InvalidPattern);
        }
        self.program.push(instruction);
        Ok(self.program.len() - 1)
    }

    fn compile(&mut self, node: &Node) -> Result<()> {
        match node {
            Node::Set(set) => self.emit(Instruction::Take(set.clone())).map(|_| ()),
            Node::Start => self.emit(Instruction::AtStart).map(|_| ()),
            Node::End => self.emit(Instruction::AtEnd).map(|_| ()),
            Node::Concat(nodes) => nodes.iter().try_for_each(|node| self.compile(node)),
            Node::Either(nodes) => self.compile_either(nodes),
            Node::Repeat { node, min, max } => {
                self.compile_times(node, *min)?;
                match max {
                    None => self.compile_any_number(node),
                    Some(max) => (*min..*max).try_for_each(|_| self.compile_optional(node)),
                }
            }
        }
    }

    fn compile_times(&mut self, node: &Node, times: usize) -> Result<()> {
        for _ in 0..times {
            let before = self.program.len();
            self.compile(node)?;
            // Nothing any number of times is nothing, and must not cost time that no instruction bounds.
            if self.program.len() == before {
                break;
            }
        }
        Ok(())
    }

    fn compile_either(&mut self, nodes: &[Node]) -> Result<()> {
        let mut ends = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            if index + 1 == nodes.len() {
                self.compile(node)?;
                break;
            }
            let split = self.emit(Instruction::Split(0, 0))?;
            self.compile(node)?;
            ends.push(self.emit(Instruction::Jump(0))?);
            self.program[split] = Instruction::Split(split + 1, self.program.len());
        }
        let end = self.program.len();
        ends.into_iter().for_each(|at| self.program[at] = Instruction::Jump(end));
        Ok(())
    }

    fn compile_any_number(&mut self, node: &Node) -> Result<()> {
        let split = self.emit(Instruction::Split(0, 0))?;
        self.compile(node)?;
        self.emit(Instruction::Jump(split))?;
        self.program[split] = Instruction::Split(split + 1, self.program.len());
        Ok(())
    }

    fn compile_optional(&mut self, node: &Node) -> Result<()> {
        let split = self.emit(Instruction::Split(0, 0))?;
        self.compile(node)?;
        self.program[split] = Instruction::Split(split + 1, self.program.len());
        Ok(())
    }
}

/// Where in the program a match stands after some characters: at each place once, however it got there.
struct Threads {
    seen: Vec<bool>,
    taking: Vec<usize>,
    is_match: bool,
}

impl Threads {
    fn new(instructions: usize) -> Self {
        Self { seen: vec![false; instructions], taking: Vec::new(), is_match: false }
    }

    /// Goes on from an instruction to all that take a character.
    fn enter(&mut self, program: &[Instruction], at: usize, is_start: bool, is_end: bool) {
        let mut open = vec![at];
        while let Some(at) = open.pop() {
            if std::mem::replace(&mut self.seen[at], true) {
                continue;
            }
            match &program[at] {
                Instruction::Take(_) => self.taking.push(at),
                Instruction::Split(one, other) => open.extend([*other, *one]),
                Instruction::Jump(to) => open.push(*to),
                Instruction::AtStart if is_start => open.push(at + 1),
                Instruction::AtEnd if is_end => open.push(at + 1),
                Instruction::AtStart | Instruction::AtEnd => {}
                Instruction::Match => self.is_match = true,
            }
        }
    }
}

struct Parser<'a> {
    rest: Peekable<Chars<'a>>,
    depth: usize,
}

impl Parser<'_> {
    fn next(&mut self) -> Result<char> {
        self.rest.next().ok_or(InvalidPattern)
    }

    fn take_if(&mut self, character: char) -> bool {
        self.rest.next_if_eq(&character).is_some()
    }

    fn either(&mut self) -> Result<Node> {
        let mut nodes = vec![self.concat()?];
        while self.take_if('|') {
            nodes.push(self.concat()?);
        }
        Ok(Node::Either(nodes))
    }

    fn concat(&mut self) -> Result<Node> {
        let mut nodes = Vec::new();
        while self.rest.peek().is_some_and(|next| !matches!(next, '|' | ')')) {
            let atom = self.atom()?;
            nodes.push(self.repeated(atom)?);
        }
        Ok(Node::Concat(nodes))
    }

    fn atom(&mut self) -> Result<Node> {
        Ok(match self.next()? {
            '(' => return self.group(),
            '[' => Node::Set(self.class()?),
            '.' => Node::Set(CharSet { ranges: vec![('\n', '\n'), ('\r', '\r')], is_negated: true }),
            '^' => Node::Start,
            '$' => Node::End,
            '\\' => Node::Set(self.escape()?),
            '*' | '+' | '?' | '{' => return Err(InvalidPattern),
            character => Node::Set(CharSet::one(character)),
        })
    }

    fn group(&mut self) -> Result<Node> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(InvalidPattern);
        }
        if self.take_if('?') && !self.take_if(':') {
            return Err(InvalidPattern);
        }
        let node = self.either()?;
        self.depth -= 1;
        if self.take_if(')') { Ok(node) } else { Err(InvalidPattern) }
    }

    fn escape(&mut self) -> Result<CharSet> {
        let character = self.next()?;
        let ranges = match character.to_ascii_lowercase() {
            'd' => vec![('0', '9')],
            'w' => vec![('a', 'z'), ('A', 'Z'), ('0', '9'), ('_', '_')],
            's' => vec![(' ', ' '), ('\t', '\r')],
            't' if character == 't' => vec![('\t', '\t')],
            'n' if character == 'n' => vec![('\n', '\n')],
            'r' if character == 'r' => vec![('\r', '\r')],
            // Letters and digits that are left mean something else in Java: references, boundaries, categories.
            other if other.is_ascii_alphanumeric() => return Err(InvalidPattern),
            _ => vec![(character, character)],
        };
        Ok(CharSet { ranges, is_negated: matches!(character, 'D' | 'W' | 'S') })
    }

    /// A class, behind its bracket. Unions and intersections of classes are not supported.
    fn class(&mut self) -> Result<CharSet> {
        let mut set = CharSet { is_negated: self.take_if('^'), ..CharSet::default() };
        loop {
            let first = match self.next()? {
                ']' if !set.ranges.is_empty() => return Ok(set),
                '[' | ']' | '&' => return Err(InvalidPattern),
                '\\' => {
                    let escaped = self.escape()?;
                    if escaped.is_negated {
                        return Err(InvalidPattern);
                    }
                    if let [(first, last)] = escaped.ranges[..]
                        && first == last
                    {
                        first
                    } else {
                        set.ranges.extend(escaped.ranges);
                        continue;
                    }
                }
                character => character,
            };
            set.ranges.push((first, self.range_end(first)?));
        }
    }

    /// The last character of a range that may have begun with `first`, or `first`.
    fn range_end(&mut self, first: char) -> Result<char> {
        let mut ahead = self.rest.clone();
        // A hyphen at the end of a class is itself.
        if ahead.next() != Some('-') || ahead.next() == Some(']') {
            return Ok(first);
        }
        self.next()?;
        let last = match self.next()? {
            '\\' => match self.escape()?.ranges[..] {
                [(one, other)] if one == other => one,
                _ => return Err(InvalidPattern),
            },
            '[' => return Err(InvalidPattern),
            character => character,
        };
        if first <= last { Ok(last) } else { Err(InvalidPattern) }
    }

    fn repeated(&mut self, node: Node) -> Result<Node> {
        let (min, max) = match self.rest.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                self.next()?;
                let counts = self.counts()?;
                return self.quantified(node, counts);
            }
            _ => return Ok(node),
        };
        self.next()?;
        self.quantified(node, (min, max))
    }

    fn quantified(&mut self, node: Node, (min, max): (usize, Option<usize>)) -> Result<Node> {
        // Not greedy: the same, where the whole text has to match.
        self.take_if('?');
        // Possessive, or a quantifier of a quantifier.
        if matches!(self.rest.peek(), Some('*' | '+' | '?' | '{')) {
            return Err(InvalidPattern);
        }
        Ok(Node::Repeat { node: Box::new(node), min, max })
    }

    /// What stands in braces, up to the closing one.
    fn counts(&mut self) -> Result<(usize, Option<usize>)> {
        let min = self.number()?.ok_or(InvalidPattern)?;
        let max = if self.take_if(',') { self.number()? } else { Some(min) };
        if !self.take_if('}') || max.is_some_and(|max| max < min) {
            return Err(InvalidPattern);
        }
        Ok((min, max))
    }

    fn number(&mut self) -> Result<Option<usize>> {
        let mut number = None;
        while let Some(digit) = self.rest.peek().and_then(|next| next.to_digit(10)) {
            self.next()?;
            let next = number.unwrap_or(0) * 10 + digit as usize;
            if next > INSTRUCTIONS_MAX {
                return Err(InvalidPattern);
            }
            number = Some(next);
        }
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_whole_ids_as_java_does() {
        let cases: [(&str, &[&str], &[&str]); 16] = [
            ("pay", &["pay"], &["pays", "xpay", ""]),
            ("pay.*", &["pay", "payments-1"], &["repay", "pay\n"]),
            ("^pay$", &["pay"], &["pays"]),
            ("a|bc|", &["a", "bc", ""], &["ab", "abc"]),
            ("(a|b)+c?", &["a", "abba", "bc"], &["c", "abcc"]),
            ("(?:ab){2,3}", &["abab", "ababab"], &["ab", "abababab"]),
            ("a{2}", &["aa"], &["a", "aaa"]),
            ("a{1,}b", &["ab", "aaab"], &["b"]),
            ("[a-c_.-]+", &["a.b-c_"], &["d", ""]),
            ("[^0-9]*", &["abc", ""], &["a1"]),
            (r"tx-\d+\.\w*?", &["tx-12.", "tx-1.a_B9"], &["tx-.", "tx-1"]),
            (r"\S+\s\D", &["ab c"], &["ab 1", "abc"]),
            (r"[\d\-x]+", &["1-x"], &["y"]),
            ("(a*)*b", &["b", "aaab"], &["aaaa"]),
            ("x^|$", &[""], &["x"]),
            ("ä.", &["äö"], &["ä"]),
        ];
        for (pattern, matching, others) in cases {
            let parsed = Pattern::parse(pattern).unwrap_or_else(|_| panic!("{pattern}"));
            matching.iter().for_each(|id| assert!(parsed.matches(id), "{pattern} matches {id:?}"));
            others.iter().for_each(|id| assert!(!parsed.matches(id), "{pattern} does not match {id:?}"));
        }
    }

    #[test]
    fn what_is_no_pattern_or_cannot_be_bounded_is_refused() {
        let refused = [
            "(",
            ")",
            "a)",
            "[",
            "[]",
            "[b-a]",
            "*",
            "a**",
            "a++",
            "a{",
            "a{2,1}",
            "a{,2}",
            "a{1001}",
            "(?=a)",
            "(?i)a",
            r"(a)\1",
            r"\",
            r"\p{L}",
            r"\bx",
            "[a-z&&[^b]]",
            "a{1000}b",
            "((a{99}){99}){99}",
        ];
        for pattern in refused {
            assert!(Pattern::parse(pattern).is_err(), "{pattern}");
        }
        assert!(Pattern::parse(&"(".repeat(500)).is_err());
        assert!(Pattern::parse(&"a".repeat(1_001)).is_err());
    }

    #[test]
    fn nothing_repeated_costs_nothing() {
        let pattern = Pattern::parse(&format!("{}{}", "(".repeat(30), "){1000}".repeat(30))).expect("a pattern");
        assert!(pattern.matches(""));
        assert!(!pattern.matches("a"));
    }

    #[test]
    fn no_pattern_takes_exponential_time() {
        let pattern = Pattern::parse("(a|a?)*(a*)*(a+)+b").expect("a pattern");
        assert!(!pattern.matches(&"a".repeat(2_000)));
    }
}
