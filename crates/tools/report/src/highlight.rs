//! Source code as HTML: comments, texts, numbers, keywords, types and calls, each in a `span` of its class.

use minijinja::HtmlEscape;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Rust,
    Python,
}

const RUST: &str = " as async await break const continue crate dyn else enum extern false fn for if impl in let \
    loop match mod move mut pub ref return self static struct super trait true type unsafe use where while ";
const PYTHON: &str = " and as assert async await break class continue def del elif else except False finally for \
    from global if import in is lambda None nonlocal not or pass raise return True try while with yield ";

pub fn highlight(code: &str, language: Language) -> String {
    let (mut html, mut rest) = (String::with_capacity(2 * code.len()), code);
    while let Some(first) = rest.chars().next() {
        let (class, length) = token(rest, first, language);
        let (text, after) = rest.split_at(length);
        let text = HtmlEscape(text);
        let text =
            if class.is_empty() { text.to_string() } else { format!("<span class={class}>{text}</span>") };
        html.push_str(&text);
        rest = after;
    }
    html
}

/// The class of the first token, and its length.
fn token(code: &str, first: char, language: Language) -> (&'static str, usize) {
    let line = code.find('\n').unwrap_or(code.len());
    let rust = language == Language::Rust;
    match first {
        '/' if rust && code.starts_with("//") => ("c", line),
        '#' if !rust => ("c", line),
        '#' if rust && code[1..].starts_with(['[', '!']) => ("c", line),
        '\'' if rust && !is_char(code) => ("", 1), // a lifetime
        '"' | '\'' => ("s", text(code, first)),
        '0'..='9' => ("n", while_in(code, |c| c.is_ascii_alphanumeric() || c == '_')),
        c if c.is_alphabetic() || c == '_' => word(code, language),
        c => ("", c.len_utf8()),
    }
}

fn is_char(code: &str) -> bool {
    code[1..].starts_with('\\') || code.chars().nth(2) == Some('\'')
}

fn text(code: &str, quote: char) -> usize {
    let three = quote.to_string().repeat(3);
    if code.starts_with(&three) {
        return code[3..].find(&three).map_or(code.len(), |at| at + 6);
    }
    let mut escaped = false;
    let ends = |(_, c): &(usize, char)| {
        let ends = *c == quote && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    };
    code[1..].char_indices().find(ends).map_or(code.len(), |(at, _)| at + 2)
}

fn word(code: &str, language: Language) -> (&'static str, usize) {
    let length = while_in(code, |c| c.is_alphanumeric() || c == '_');
    let (word, after) = code.split_at(length);
    let keywords = if language == Language::Rust { RUST } else { PYTHON };
    let class = match after.chars().next() {
        _ if keywords.split_whitespace().any(|keyword| keyword == word) => "k",
        _ if word.starts_with(char::is_uppercase) => "t",
        Some('(' | '!') => "f",
        _ => "",
    };
    (class, length)
}

fn while_in(code: &str, class: impl Fn(char) -> bool) -> usize {
    code.find(|c| !class(c)).unwrap_or(code.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_get_their_classes() {
        let html = highlight("let a: &'a Vec = f('\\'', \"<\\\"\", 1..=4); // it's", Language::Rust);
        let expected = "<span class=k>let</span> a: &amp;&#x27;a <span class=t>Vec</span> = <span class=f>f</span>\
            (<span class=s>&#x27;\\&#x27;&#x27;</span>, <span class=s>&quot;&lt;\\&quot;&quot;</span>, \
            <span class=n>1</span>..=<span class=n>4</span>); <span class=c>&#x2f;&#x2f; it&#x27;s</span>";
        assert_eq!(html, expected);
        let html = highlight("def f():\n    '''a\nb'''  # c\n", Language::Python);
        let expected = "<span class=k>def</span> <span class=f>f</span>():\n    \
            <span class=s>&#x27;&#x27;&#x27;a\nb&#x27;&#x27;&#x27;</span>  <span class=c># c</span>\n";
        assert_eq!(html, expected);
    }

    #[test]
    fn any_text_is_kept() {
        for code in ["", "'", "\"", "'''", "\"\\", "#", "é'é", "'\\", "\"é\\"] {
            for language in [Language::Rust, Language::Python] {
                let html = highlight(code, language);
                let shown =
                    html.replace("<span class=s>", "").replace("<span class=c>", "").replace("</span>", "");
                assert_eq!(shown, HtmlEscape(code).to_string());
            }
        }
    }
}
