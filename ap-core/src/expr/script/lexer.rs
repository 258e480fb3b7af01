//! The tokens of a JavaScript expression: as much of the language's grammar as it takes to know where text ends.
//!
//! * Strings in single or double quotes end at the same quote, whatever stands between, line breaks included; a backslash
//!   takes the next character with it.
//! * Template literals nest: in `${ … }` stands code again.
//! * `//` begins a comment that ends with the line, `/*` one that ends at `*/`.
//! * Any other `/` is a division behind a name, a number, text, a closing bracket, `++` or `--`, and begins a regular
//!   expression everywhere else, so also behind words such as `return` and `typeof`. A regular expression ends at a `/`
//!   that stands in no class; a line break in one is an error.
//!
//! Each character is looked at once.

/// A token with its place. Unit: bytes from the beginning of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One of `) ] }`, or the `}` that ends `${`.
    Close(Bracket),
    /// A name or a word of the language.
    Name,
    Number,
    /// One of `( [ {`, or `${`.
    Open(Bracket),
    /// Any other sign, and the backslash, with which names could be spelled otherwise.
    Op,
    /// Literal text of a template literal.
    Quasi,
    Regex,
    /// A quoted string.
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bracket {
    Brace,
    Paren,
    Square,
    /// `${ … }` in a template literal.
    Substitution,
}

/// Something is begun and never ended: a string, a comment, a regular expression.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unclosed;

/// Reads tokens until `}}` stands where no brace is open, or the text ends.
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    /// Brackets that are open.
    open: Vec<Bracket>,
    /// How many of them are braces of either kind.
    braces: usize,
    /// Whether a `/` would begin a regular expression here.
    regex: bool,
    /// Whether the next thing is text of a template literal.
    quasi: bool,
    /// Whether the brackets so far match.
    matched: bool,
}

impl<'a> Lexer<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, at: 0, open: Vec::new(), braces: 0, regex: true, quasi: false, matched: true }
    }

    /// Where the lexer stands: behind the last token, or before the `}}` that ends the text.
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    /// Whether every bracket so far has its partner.
    pub(super) fn is_matched(&self) -> bool {
        self.matched && self.open.is_empty()
    }

    /// The next token; `None` at the end or before the ending `}}`.
    pub(super) fn next(&mut self) -> Result<Option<Token>, Unclosed> {
        let start = self.at;
        if self.quasi {
            return self.quasi(start).map(Some);
        }
        self.skip_space()?;
        let start = self.at;
        let Some(next) = self.char() else { return Ok(None) };
        let kind = match next {
            '}' if self.braces == 0 && self.rest().starts_with("}}") => return Ok(None),
            '(' => self.opens(Bracket::Paren),
            '[' => self.opens(Bracket::Square),
            '{' => self.opens(Bracket::Brace),
            ')' => self.closes(Bracket::Paren),
            ']' => self.closes(Bracket::Square),
            '}' => self.closes_brace(),
            '\'' | '"' => {
                self.quoted(next)?;
                Kind::Text
            }
            '`' => {
                self.at += 1;
                return self.quasi(start).map(Some);
            }
            '/' if self.regex => {
                self.regular_expression()?;
                Kind::Regex
            }
            '0'..='9' => {
                self.pass_while(|next| next.is_alphanumeric() || matches!(next, '_' | '.'));
                Kind::Number
            }
            next if is_name_char(next) => {
                self.pass_while(is_name_char);
                Kind::Name
            }
            next => {
                self.at += self.operator().unwrap_or(next.len_utf8());
                Kind::Op
            }
        };
        let token = Token { kind, start, end: self.at };
        self.regex = match kind {
            Kind::Open(_) => true,
            Kind::Op => !matches!(token.text(self.text), "++" | "--"),
            Kind::Name => BEFORE_OPERAND.contains(&token.text(self.text)),
            Kind::Close(_) | Kind::Number | Kind::Quasi | Kind::Regex | Kind::Text => false,
        };
        Ok(Some(token))
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn char(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_space(&mut self) -> Result<(), Unclosed> {
        loop {
            self.pass_while(char::is_whitespace);
            let rest = self.rest();
            if let Some(comment) = rest.strip_prefix("//") {
                // The line break itself is white space.
                self.at += 2 + comment.find(LINE_BREAKS).unwrap_or(comment.len());
            } else if let Some(comment) = rest.strip_prefix("/*") {
                self.at += 4 + comment.find("*/").ok_or(Unclosed)?;
            } else {
                return Ok(());
            }
        }
    }

    fn pass_while(&mut self, accept: impl Fn(char) -> bool) {
        let rest = self.rest();
        self.at += rest.find(|next| !accept(next)).unwrap_or(rest.len());
    }

    fn opens(&mut self, bracket: Bracket) -> Kind {
        self.at += if bracket == Bracket::Substitution { 2 } else { 1 };
        self.braces += usize::from(bracket.is_brace());
        self.open.push(bracket);
        Kind::Open(bracket)
    }

    fn closes(&mut self, bracket: Bracket) -> Kind {
        self.at += 1;
        if self.open.last() == Some(&bracket) {
            self.open.pop();
        } else {
            self.matched = false;
        }
        Kind::Close(bracket)
    }

    /// A `}` ends the innermost brace, whatever was opened in it and not closed.
    fn closes_brace(&mut self) -> Kind {
        self.at += 1;
        while let Some(bracket) = self.open.pop() {
            if bracket.is_brace() {
                self.braces -= 1;
                self.quasi = bracket == Bracket::Substitution;
                return Kind::Close(bracket);
            }
            self.matched = false;
        }
        self.matched = false;
        Kind::Close(Bracket::Brace)
    }

    fn quoted(&mut self, quote: char) -> Result<(), Unclosed> {
        let mut bytes = self.rest().bytes().enumerate().skip(1);
        while let Some((index, byte)) = bytes.next() {
            if byte == b'\\' {
                bytes.next();
            } else if char::from(byte) == quote {
                self.at += index + 1;
                return Ok(());
            }
        }
        Err(Unclosed)
    }

    /// Reads text of a template literal up to its end or to the next `${`, which is left for the next token.
    fn quasi(&mut self, start: usize) -> Result<Token, Unclosed> {
        if self.quasi && self.rest().starts_with("${") {
            self.quasi = false;
            self.regex = true;
            let kind = self.opens(Bracket::Substitution);
            return Ok(Token { kind, start, end: self.at });
        }
        let mut bytes = self.rest().bytes().enumerate().peekable();
        while let Some((index, byte)) = bytes.next() {
            match byte {
                b'\\' => drop(bytes.next()),
                b'`' => {
                    self.at += index + 1;
                    self.quasi = false;
                    self.regex = false;
                    return Ok(Token { kind: Kind::Quasi, start, end: self.at });
                }
                b'$' if bytes.peek().is_some_and(|(_, next)| *next == b'{') => {
                    self.at += index;
                    self.quasi = true;
                    return Ok(Token { kind: Kind::Quasi, start, end: self.at });
                }
                _ => {}
            }
        }
        Err(Unclosed)
    }

    fn regular_expression(&mut self) -> Result<(), Unclosed> {
        let mut chars = self.rest().char_indices().skip(1);
        let mut class = false;
        while let Some((index, next)) = chars.next() {
            match next {
                _ if LINE_BREAKS.contains(&next) => return Err(Unclosed),
                '\\' => drop(chars.next().filter(|(_, escaped)| !LINE_BREAKS.contains(escaped)).ok_or(Unclosed)?),
                '[' => class = true,
                ']' => class = false,
                '/' if !class => {
                    self.at += index + 1;
                    self.pass_while(is_name_char);
                    return Ok(());
                }
                _ => {}
            }
        }
        Err(Unclosed)
    }

    /// The length of the sign here, if it is one that must be told from its beginning.
    fn operator(&self) -> Option<usize> {
        let rest = self.rest();
        let found = OPERATORS.iter().find(|sign| rest.starts_with(**sign))?;
        // `a?.5:b` asks and does not read a member.
        let asks = *found == "?." && rest.chars().nth(2).is_some_and(|next| next.is_ascii_digit());
        (!asks).then_some(found.len())
    }
}

impl Token {
    pub(super) fn text<'a>(&self, source: &'a str) -> &'a str {
        source.get(self.start..self.end).unwrap_or_default()
    }
}

impl Bracket {
    const fn is_brace(self) -> bool {
        matches!(self, Self::Brace | Self::Substitution)
    }
}

pub(super) fn is_name_char(next: char) -> bool {
    next.is_alphanumeric() || matches!(next, '_' | '$' | '\u{200c}' | '\u{200d}')
}

/// Signs of more than one character that mean something else than their first. Longer ones first.
const OPERATORS: [&str; 13] = ["...", "===", "!==", "=>", "==", "!=", "<=", ">=", "?.", "??", "||", "++", "--"];
const LINE_BREAKS: [char; 4] = ['\n', '\r', '\u{2028}', '\u{2029}'];
/// Words behind which an operand follows, so that a `/` begins a regular expression.
const BEFORE_OPERAND: [&str; 15] = [
    "await",
    "case",
    "delete",
    "do",
    "else",
    "extends",
    "in",
    "instanceof",
    "new",
    "of",
    "return",
    "throw",
    "typeof",
    "void",
    "yield",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Kinds and texts up to the end or the ending `}}`, and what is left.
    fn tokens(text: &str) -> Option<(Vec<(Kind, &str)>, &str)> {
        let mut lexer = Lexer::new(text);
        let mut found = Vec::new();
        while let Some(token) = lexer.next().ok()? {
            found.push((token.kind, token.text(text)));
        }
        Some((found, &text[lexer.at()..]))
    }

    fn texts(text: &str) -> Vec<&str> {
        tokens(text).expect("closed").0.into_iter().map(|(_, text)| text).collect()
    }

    fn end(text: &str) -> Option<&str> {
        tokens(text).map(|(_, rest)| rest)
    }

    #[test]
    fn the_end_is_a_pair_of_braces_that_closes_nothing() {
        for text in [
            "a",
            "'}}'",
            r#""}}" + '\'}}'"#,
            "`}}`",
            "`a${ {b: '}}'}.b }}}`",
            "`${`${`}}`}`}}}`",
            "({a: {b: 1}})",
            "({a: {b: {c: 1}}}).a.b",
            "x => { if (x) { return 1 } }",
            "/}}/.test(a)",
            "/[/}}]/.test(a)",
            r"/\/}}/g",
            "a // }}\n",
            "a /* }} */ + 1",
            "a / b / '}}'.length",
            "a++ / 2",
            "(a) / 2 + [1][0] / 3",
            "typeof /}}/",
            "x => x ? /}}/ : 1",
        ] {
            assert_eq!(end(&format!("{text}}}}} rest")), Some("}} rest"), "{text}");
        }
    }

    #[test]
    fn what_is_never_ended_is_told() {
        for text in
            ["'a", "\"a\\\"", "`a", "`a${b}", "`a${`b", "/* a", "+ /a", "= /a\n/", "+ /[/]", "+ /\\", "+ /\\\n/"]
        {
            assert_eq!(tokens(text), None, "{text}");
        }
    }

    #[test]
    fn a_slash_is_a_division_or_begins_a_regular_expression() {
        let regexes = |text| tokens(text).unwrap().0.into_iter().filter(|(kind, _)| *kind == Kind::Regex).count();
        for (text, expected) in [
            ("a / b / c", 0),
            ("1 / 2 / 3", 0),
            ("f() / a / b", 0),
            ("a[0] / a / b", 0),
            ("`x` / a / b", 0),
            ("'x' / a / b", 0),
            ("x++ / a / b", 0),
            ("x + /a/ / b", 1),
            ("(/a/g)", 1),
            ("[/a/, /b/u]", 2),
            ("a ? /b/ : /c/", 2),
            ("x => /a/", 1),
            ("return /a/", 1),
            ("a in /b/", 1),
            ("!/a/", 1),
        ] {
            assert_eq!(regexes(text), expected, "{text}");
        }
    }

    #[test]
    fn tokens_keep_the_text_between_white_space_and_comments() {
        assert_eq!(texts("a?.b ?? c?.5:1"), ["a", "?.", "b", "??", "c", "?", ".", "5", ":", "1"]);
        assert_eq!(texts("x=>y===1_000n/*c*/||$z_1"), ["x", "=>", "y", "===", "1_000n", "||", "$z_1"]);
        assert_eq!(texts("`a${b}c${d}`"), ["`a", "${", "b", "}", "c", "${", "d", "}", "`"]);
        assert_eq!(texts("größe\u{2028}+1 // c"), ["größe", "+", "1"]);
        assert_eq!(texts("...a"), ["...", "a"]);
    }

    #[test]
    fn brackets_match_or_do_not() {
        let matched = |text| {
            let mut lexer = Lexer::new(text);
            while lexer.next().unwrap().is_some() {}
            lexer.is_matched() && lexer.at() == text.len()
        };
        assert!(["", "()", "({[`${a}`]})", "x => ({})"].into_iter().all(matched));
        assert!(!["(", ")", "(]", "{(}", "({)}", "}", "a)"].into_iter().any(matched));
    }

    proptest! {
        #[test]
        fn tokens_stand_in_order_and_cover_nothing_twice(text in any::<String>()) {
            let mut lexer = Lexer::new(&text);
            let mut last = 0;
            while let Ok(Some(token)) = lexer.next() {
                prop_assert!(token.start >= last && token.end > token.start && token.end <= text.len());
                prop_assert!(text.is_char_boundary(token.start) && text.is_char_boundary(token.end));
                last = token.end;
            }
        }

        #[test]
        fn script_like_text_is_read_to_an_end(text in r#"(\$\{|\}\}|[(){}\[\]`'"/\\*$a1.?:;,= \n]|=>){0,60}"#) {
            let mut lexer = Lexer::new(&text);
            let mut count = 0;
            while let Ok(Some(_)) = lexer.next() {
                count += 1;
            }
            prop_assert!(count <= text.len());
        }
    }
}
