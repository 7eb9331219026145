//! Wildcards, as filters and policies have them.

/// Whether `text` is what `pattern` says: `*` stands for anything, `?` for any one character.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and how much of the text it stands for so far.
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == '?' || c == text[t] => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                (p, t) = (at + 1, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[test]
fn a_star_is_anything_and_a_question_mark_one_character() {
    for (pattern, text) in [("", ""), ("*", ""), ("*", "any"), ("a*c*", "abbcc"), ("a?c", "abc"), ("*@x", "a@b@x")] {
        assert!(matches(pattern, text), "{pattern} {text}");
    }
    for (pattern, text) in [("", "a"), ("a", "A"), ("a*c", "abcd"), ("?", ""), ("arn:*", "*")] {
        assert!(!matches(pattern, text), "{pattern} {text}");
    }
}
