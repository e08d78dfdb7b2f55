//! One frame over a connection of its own, in the clear or with TLS.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Outbound, Stream};

/// How long the other side may take to close the connection behind the frame.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);

impl Outbound {
    /// Sends a frame and closes. Such protocols answer nothing: that the other side closed, or did not reset the connection
    /// within a second, is all there is to know.
    ///
    /// # Errors
    /// A sentence: no address that may be called, no connection, no TLS, too slow, reset.
    pub async fn line(&self, host: &str, port: u16, tls: bool, frame: &[u8]) -> Result<(), String> {
        self.timed(async {
            let stream = self.connect(host, port).await?;
            if tls { deliver(self.secure(host, stream).await?, frame).await } else { deliver(stream, frame).await }
        })
        .await
    }
}

async fn deliver(mut stream: impl Stream, frame: &[u8]) -> Result<(), String> {
    let broken = |e: std::io::Error| format!("the connection broke: {e}");
    stream.write_all(frame).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    stream.shutdown().await.map_err(broken)?;
    let mut rest = [0; 256];
    let closing = async {
        loop {
            match stream.read(&mut rest).await {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // Some close without the farewell of TLS.
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(e) => return Err(broken(e)),
            }
        }
    };
    tokio::time::timeout(CLOSE_TIME_MAX, closing).await.unwrap_or(Ok(()))
}
