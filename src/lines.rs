//! Lines of standard input, of a bounded length: MCP's framing over stdio.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// The most bytes of a line.
const LINE_MAX: usize = 16 * 1024 * 1024;
/// What is said of a longer one.
pub(crate) const TOO_LONG: &str = "a message may have 16 MiB at most";

/// What was read.
pub(crate) enum Read {
    /// A line, without its end.
    Line(Vec<u8>),
    /// A line that was too long, and is gone.
    TooLong,
    /// There is no more.
    End,
}

/// A reader of lines.
pub(crate) struct Lines<R>(R);

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(crate) fn new(input: R) -> Self {
        Self(input)
    }

    /// The next line; a last one without an end counts.
    pub(crate) async fn next(&mut self) -> io::Result<Read> {
        let (mut line, mut length) = (Vec::new(), 0_usize);
        loop {
            let bytes = self.0.fill_buf().await?;
            if bytes.is_empty() {
                return Ok(match length {
                    0 => Read::End,
                    length if length > LINE_MAX => Read::TooLong,
                    _ => Read::Line(line),
                });
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let part = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
            length += part.len();
            if length <= LINE_MAX {
                line.extend_from_slice(part);
            }
            let read = end.map_or(bytes.len(), |at| at + 1);
            self.0.consume(read);
            if end.is_some() {
                return Ok(if length > LINE_MAX { Read::TooLong } else { Read::Line(line) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_one_by_one_and_long_ones_are_told_of() {
        let long = "x".repeat(LINE_MAX + 1);
        let text = format!("one\n\n{long}\ntwo\nthree");
        let mut lines = Lines::new(text.as_bytes());
        let mut read = Vec::new();
        loop {
            read.push(match lines.next().await.expect("it reads") {
                Read::Line(line) => String::from_utf8(line).expect("text"),
                Read::TooLong => "too long".to_owned(),
                Read::End => break,
            });
        }
        assert_eq!(read, ["one", "", "too long", "two", "three"]);
    }
}
