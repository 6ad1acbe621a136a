//! Frames of a peer stream: four bytes of length, big endian, then the message as JSON.

use std::io;

use pgherd_core::peer::PeerMessage;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// No message is longer: the longest is a beat, of some hundred bytes.
pub(crate) const LIMIT: usize = 64 << 10;

/// Why a stream can't be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The connection ended or broke.
    #[error("the connection ended")]
    Io(#[from] io::Error),
    /// More than any message has.
    #[error("a frame of {0} bytes; no message has more than {LIMIT}")]
    TooLong(usize),
    /// Not a message.
    #[error("a frame that is no message")]
    Format(#[from] serde_json::Error),
}

/// Reads one message. Not cancel-safe: a stream has one reader that does nothing else.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<PeerMessage, FrameError> {
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if length > LIMIT {
        return Err(FrameError::TooLong(length));
    }
    let mut text = vec![0; length];
    stream.read_exact(&mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}

/// Writes one message in one piece.
pub(crate) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &PeerMessage,
) -> Result<(), FrameError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - 4;
    if length > LIMIT {
        return Err(FrameError::TooLong(length));
    }
    frame[..4].copy_from_slice(&u32::try_from(length).unwrap_or(0).to_be_bytes());
    stream.write_all(&frame).await?;
    stream.flush().await?;
    Ok(())
}
