//! Rows for people, for programs, and for spreadsheets.

use serde::Serialize;

/// How rows are printed.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(super) enum Format {
    /// Columns.
    #[default]
    Table,
    /// One JSON object a line.
    Json,
    /// Comma-separated values (RFC 4180).
    Csv,
}

/// Prints what was found: `cells` for columns, the whole for JSON.
pub(super) fn print<T: Serialize, const N: usize>(
    format: Format,
    heads: [&str; N],
    found: &[T],
    cells: impl Fn(&T) -> [String; N],
) {
    match format {
        Format::Json => {
            found.iter().filter_map(|one| serde_json::to_string(one).ok()).for_each(|line| crate::say(&escaped(&line)));
        }
        Format::Csv => {
            // A line ends in CR and LF, of which `say` writes the latter.
            let row = |cells: &[String]| {
                let cells = cells.iter().map(|cell| quoted(cell)).collect::<Vec<_>>();
                crate::say(&format!("{}\r", cells.join(",")));
            };
            row(&heads.map(str::to_owned));
            found.iter().for_each(|one| row(&cells(one)));
        }
        Format::Table => {
            let plain = |cells: [String; N]| cells.map(|cell| plain(&cell));
            let rows: Vec<[String; N]> =
                std::iter::once(heads.map(str::to_owned)).chain(found.iter().map(cells).map(plain)).collect();
            let width = |column: usize| {
                rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
            };
            let widths: Vec<usize> = (0..N).map(width).collect();
            for row in &rows {
                let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
                crate::say(padded.collect::<Vec<_>>().join("  ").trim_end());
            }
        }
    }
}

/// What a spreadsheet would take for a formula is text (OWASP, "CSV Injection"). Some look for one behind what is blank,
/// take full-width signs for the others, or take a semicolon for the end of a cell.
fn quoted(cell: &str) -> String {
    let first = cell.chars().find(|c| !c.is_whitespace() && !is_hidden(*c));
    let formula = first.is_some_and(|c| matches!(c, '=' | '+' | '-' | '@' | '＝' | '＋' | '－' | '＠'));
    let cell = format!("{}{}", if formula { "'" } else { "" }, plain(cell));
    if cell.contains([',', ';', '"']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}

/// Neither a terminal nor a reader's eye obeys what somebody wrote as a reason: what is not seen is spelled out.
fn plain(cell: &str) -> String {
    let spelled = |c: char| if is_hidden(c) { c.escape_unicode().to_string() } else { c.to_string() };
    cell.chars().map(spelled).collect()
}

/// The same for JSON, where such characters stand in strings alone, and have escapes of their own.
fn escaped(json: &str) -> String {
    let mut units = [0; 2];
    let mut spelled = |c: char| match c {
        c if is_hidden(c) => c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
        c => c.to_string(),
    };
    json.chars().map(&mut spelled).collect()
}

/// Whether a character is not seen and changes how others are: controls, the format characters of Unicode (category Cf: the
/// direction of text, zero width, tags), the ends of lines and paragraphs, and what else is shown as nothing.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
            | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}
