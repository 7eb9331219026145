//! MCP over stdin and stdout: one line is one message, both ways, with the program that has started this one.
//!
//! There is no token: who has started the process is whom it serves. It ends with its input; what was begun by then is
//! answered, if it is soon.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Edge;
use super::caller::{Caller, Origin};
use super::conversation::Conversation;
use super::reply::Reply;
use crate::identity::bearer::Bearer;
use crate::lines::{Lines, Read, TOO_LONG};
use crate::mcp::code;
use crate::mcp::message::RpcError;

/// How long what runs may take to be answered once nobody asks any more. A change is finished and recorded all the same.
const FAREWELL: Duration = Duration::from_secs(10);

/// The program on the other end.
struct Pipe<W> {
    conversation: Conversation,
    /// The most bytes of a message.
    most: usize,
    output: W,
}

/// Serves until the input ends, or until `stop`. `secret` says for whom, to the service behind.
pub async fn serve(
    edge: Arc<Edge>,
    secret: Bearer,
    input: impl AsyncRead + Send + Unpin + 'static,
    output: impl AsyncWrite + Send + Unpin,
    stop: CancellationToken,
) -> io::Result<()> {
    // Cancelled when the input ends, for what would go on for as long as somebody listens.
    let origin = Origin { closing: stop.child_token(), ..Origin::default() };
    let caller = Caller::of(&edge, secret, &origin).await.map_err(io::Error::other)?;
    let most = edge.config.body_max;
    let conversation = Conversation::new(edge, "stdio", Arc::new(origin), Arc::new(caller));
    let mut pipe = Pipe { conversation, most, output };
    // A line that is half read must not be lost over an answer that is ready, so it is read elsewhere.
    let (lines, mut read) = mpsc::channel(1);
    let reader = tokio::spawn(async move {
        let mut input = Lines::new(BufReader::new(input));
        loop {
            let line = input.next().await;
            let ends = matches!(line, Ok(Read::End) | Err(_));
            if lines.send(line).await.is_err() || ends {
                return;
            }
        }
    });
    let served = pipe.run(&mut read, &stop).await;
    reader.abort();
    served
}

impl<W: AsyncWrite + Send + Unpin> Pipe<W> {
    async fn run(&mut self, lines: &mut mpsc::Receiver<io::Result<Read>>, stop: &CancellationToken) -> io::Result<()> {
        let mut heard = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return self.finish().await,
                reply = self.conversation.next() => self.tell(reply).await?,
                line = lines.recv(), if self.conversation.has_room() => match line.transpose()? {
                    Some(Read::Line(line)) if line.len() > self.most => {
                        self.refuse(format!("a message may have {} bytes at most", self.most)).await?;
                    }
                    Some(Read::Line(line)) if line.iter().all(u8::is_ascii_whitespace) => {}
                    Some(Read::Line(line)) => {
                        heard = true;
                        self.conversation.take(line.into()).await;
                    }
                    Some(Read::TooLong) => self.refuse(TOO_LONG.to_owned()).await?,
                    Some(Read::End) | None => {
                        if !heard {
                            // So it looks in a container that was meant to be a server.
                            tracing::warn!(
                                "stdin ended before anything was asked: a client starts this program with a pipe; a server is started with MCP_MODE=remote, or as `whitelistmcp serve`"
                            );
                        }
                        return self.finish().await;
                    }
                },
            }
        }
    }

    /// Answers what runs, and begins nothing more.
    async fn finish(&mut self) -> io::Result<()> {
        self.conversation.origin().closing.cancel();
        let answered = async {
            while !self.conversation.is_idle() {
                let reply = self.conversation.next().await;
                self.tell(reply).await?;
            }
            Ok(())
        };
        tokio::time::timeout(FAREWELL, answered).await.unwrap_or(Ok(()))
    }

    async fn tell(&mut self, reply: Option<Reply>) -> io::Result<()> {
        match reply {
            Some(Reply::Message(body)) => self.say(body).await,
            // The secret of this process is good as long as it runs.
            Some(Reply::TokenRefused(why)) => self.say(RpcError::new(code::INTERNAL_ERROR, why).to_body(None)).await,
            None => Ok(()),
        }
    }

    async fn refuse(&mut self, why: String) -> io::Result<()> {
        self.say(RpcError::new(code::INVALID_REQUEST, why).to_body(None)).await
    }

    async fn say(&mut self, mut body: Vec<u8>) -> io::Result<()> {
        body.push(b'\n');
        self.output.write_all(&body).await?;
        self.output.flush().await
    }
}
