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
            found.iter().filter_map(|one| serde_json::to_string(one).ok()).for_each(|line| crate::say(&line));
        }
        Format::Csv => {
            let row = |cells: &[String]| cells.iter().map(|cell| quoted(cell)).collect::<Vec<_>>().join(",");
            crate::say(&row(&heads.map(str::to_owned)));
            found.iter().for_each(|one| crate::say(&row(&cells(one))));
        }
        Format::Table => {
            let rows: Vec<[String; N]> =
                std::iter::once(heads.map(str::to_owned)).chain(found.iter().map(cells)).collect();
            let width = |column: usize| {
                rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
            };
            let widths: Vec<usize> = (0..N).map(width).collect();
            for row in &rows {
                let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{:<width$}", plain(cell)));
                crate::say(padded.collect::<Vec<_>>().join("  ").trim_end());
            }
        }
    }
}

/// What a spreadsheet would take for a formula is text (OWASP, "CSV Injection").
fn quoted(cell: &str) -> String {
    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let cell = if formula { format!("'{cell}") } else { cell.to_owned() };
    if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}

/// A terminal does not obey what somebody wrote as a reason.
fn plain(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}
