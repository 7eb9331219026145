//! What others say, as it may stand in messages and on a terminal.

/// The text with every character replaced that a terminal would obey, or that would turn around what stands beside it.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|letter| if is_shown(letter) { letter } else { char::REPLACEMENT_CHARACTER }).collect()
}

fn is_shown(letter: char) -> bool {
    // Unicode, "Bidirectional Algorithm": embeddings, overrides and isolates; and the two separators of lines.
    let turns = matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !letter.is_control() && !turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_of_it() {
        assert_eq!(plain("Grüße, 日本: \"a\""), "Grüße, 日本: \"a\"");
        assert_eq!(
            plain("a\u{1b}[2Jb\r\nc\u{9b}d\u{202e}e\u{7}"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}c\u{fffd}d\u{fffd}e\u{fffd}"
        );
    }
}
