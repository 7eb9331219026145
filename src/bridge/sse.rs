//! Events of a stream (WHATWG HTML, "Server-sent events"): the data of each, as it arrives.

/// The most bytes of one event.
const EVENT_MAX: usize = 16 * 1024 * 1024;

/// A stream that is being read.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    after_return: bool,
}

/// An event that is too large to be kept.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the server's stream is larger than 16 MiB")]
pub(super) struct TooLarge;

impl Events {
    /// Takes bytes as they came; the data of the events that they complete.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, TooLarge> {
        let mut events = Vec::new();
        for &byte in bytes {
            // A line ends by LF, CR, or both.
            let both = std::mem::replace(&mut self.after_return, byte == b'\r') && byte == b'\n';
            match byte {
                b'\n' if both => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                byte => self.line.push(byte),
            }
            if self.line.len() + self.data.len() > EVENT_MAX {
                return Err(TooLarge);
            }
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let (data, has) = (std::mem::take(&mut self.data), std::mem::take(&mut self.has_data));
            // One without data only primes the client for a later one.
            return (has && !data.is_empty()).then_some(data);
        }
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (field, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let value = value.strip_prefix(b" ").unwrap_or(value);
        if field == b"data" {
            if self.has_data {
                self.data.push(b'\n');
            }
            self.has_data = true;
            self.data.extend_from_slice(value);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_are_cut() {
        let stream = ": hello\r\nevent: message\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\nid: 7\ndata:\n\ndata:x\r\rretry: 5\n\ndata: rest";
        for size in [1, 2, 3, 7, 1000] {
            let (mut events, mut found) = (Events::default(), Vec::new());
            for part in stream.as_bytes().chunks(size) {
                found.extend(events.take(part).expect("small"));
            }
            let found: Vec<String> = found.into_iter().map(|data| String::from_utf8(data).expect("text")).collect();
            assert_eq!(found, ["{\"a\":\n1}", "x"], "in pieces of {size}");
        }
        assert_eq!(Events::default().take(&vec![b'x'; EVENT_MAX + 1]), Err(TooLarge));
    }
}
