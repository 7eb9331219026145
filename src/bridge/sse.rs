//! Events of a stream (WHATWG HTML, "Server-sent events"): the data of each, as it arrives, and where to go on if it breaks.

use std::time::Duration;

/// The most bytes of one event.
const EVENT_MAX: usize = 16 * 1024 * 1024;

/// A stream that is being read.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// Of which kind the event is; messages are of none, or of the one that is called so.
    kind: Vec<u8>,
    after_return: bool,
    /// The id of the line that is read, which counts once its event has ended.
    id: Option<Vec<u8>>,
    last_id: Vec<u8>,
    retry: Option<Duration>,
}

/// The longest that a server may have a client wait before it comes again.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// An event that is too large to be kept.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the server's stream is larger than 16 MiB")]
pub(super) struct TooLarge;

impl Events {
    /// The id of the last event, if the server gives them out: what it is asked to go on behind.
    pub(super) fn last_id(&self) -> Option<&[u8]> {
        Some(self.last_id.as_slice()).filter(|id| !id.is_empty())
    }

    /// How long to wait before coming again, if the server has said it.
    pub(super) fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// The stream has broken, and another begins: what was not whole is gone.
    pub(super) fn again(&mut self) {
        let (last_id, retry) = (std::mem::take(&mut self.last_id), self.retry);
        *self = Self { last_id, retry, ..Self::default() };
    }

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
            if let Some(id) = self.id.take() {
                self.last_id = id;
            }
            let kind = std::mem::take(&mut self.kind);
            if !kind.is_empty() && kind != b"message" {
                tracing::warn!("the server sent an event of a kind that is no message; it is left out");
                return None;
            }
            // One without data only primes the client for a later one.
            return (has && !data.is_empty()).then_some(data);
        }
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (field, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.has_data = true;
                self.data.extend_from_slice(value);
            }
            b"event" => self.kind = value.to_owned(),
            b"id" if !value.contains(&0) => self.id = Some(value.to_owned()),
            b"retry" if value.iter().all(u8::is_ascii_digit) => {
                let milliseconds = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                self.retry = milliseconds.map(|most| Duration::from_millis(most).min(RETRY_MAX)).or(self.retry);
            }
            _ => {}
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
        let other = b"event: endpoint\ndata: a\n\ndata: b\n\nevent: message\ndata: c\n\nevent:\ndata: d\n\n";
        assert_eq!(Events::default().take(other).expect("small"), [b"b", b"c", b"d"]);
        let mut events = Events::default();
        events.take(b"id: 1\nretry: 500\ndata: a\n\nid: 2\nretry: x\ndata: b\n").expect("small");
        assert_eq!((events.last_id(), events.retry()), (Some(&b"1"[..]), Some(Duration::from_millis(500))));
        events.again();
        assert_eq!(events.take(b"data: c\n\n").expect("small"), [b"c"]);
        assert_eq!((events.last_id(), events.retry()), (Some(&b"1"[..]), Some(Duration::from_millis(500))));
        events.take(b"id\nretry: 99999999\n\n").expect("small");
        assert_eq!((events.last_id(), events.retry()), (None, Some(RETRY_MAX)));
        assert_eq!(Events::default().take(&vec![b'x'; EVENT_MAX + 1]), Err(TooLarge));
    }
}
