//! The few bytes of PostgreSQL's protocol that a router must know, as pure functions: the head of
//! a connection, an error, and the walk over the server's messages until the first ReadyForQuery.
//! Leaves sockets and deadlines to `session`, and everything after the login to PostgreSQL.

#[cfg(test)]
mod tests;

/// PostgreSQL's own limit for a start-up packet.
pub(crate) const HEAD_MAX: usize = 10_000;

const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;
/// A TLS record of type handshake: no start-up packet begins like that, it would be 352 MiB long.
const TLS_HANDSHAKE: u8 = 0x16;
/// Length, code, pid, and the secret: 4 bytes, in protocol 3.2 up to 256.
const CANCEL_LEN: std::ops::RangeInclusive<usize> = 16..=12 + 256;

/// What a client begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Head {
    /// Asks for TLS; answered with one byte.
    Ssl,
    /// Asks for GSSAPI encryption; answered with one byte.
    Gss,
    /// Wants a backend's query cancelled.
    Cancel,
    /// The start-up message of a session.
    Startup,
    /// TLS without asking (`sslnegotiation=direct`).
    DirectTls,
}

/// Bytes that no PostgreSQL client begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("invalid length of startup packet: {0} bytes, expected 8 to {HEAD_MAX}")]
    Length(u32),
    #[error("received unencrypted data after the request for encryption")]
    DataBehindRequest,
    #[error("invalid length of a cancel request: {0} bytes")]
    CancelLength(usize),
}

/// Reads the head of a connection: the head and its length, or `None` while bytes are missing.
pub(crate) fn head(bytes: &[u8]) -> Result<Option<(Head, usize)>, HeadError> {
    if bytes.first() == Some(&TLS_HANDSHAKE) {
        return Ok(Some((Head::DirectTls, bytes.len())));
    }
    let Some(length) = be_u32(bytes, 0) else { return Ok(None) };
    if length < 8 || length as usize > HEAD_MAX {
        return Err(HeadError::Length(length));
    }
    let Some(code) = be_u32(bytes, 4) else { return Ok(None) };
    let len = length as usize;
    match code {
        SSL | GSS if len != 8 => return Err(HeadError::Length(length)),
        SSL | GSS if bytes.len() > len => return Err(HeadError::DataBehindRequest),
        CANCEL if !CANCEL_LEN.contains(&len) => return Err(HeadError::CancelLength(len)),
        _ => {}
    }
    if bytes.len() < len {
        return Ok(None);
    }
    let head = match code {
        SSL => Head::Ssl,
        GSS => Head::Gss,
        CANCEL => Head::Cancel,
        // Also versions that PostgreSQL refuses: it knows best how.
        _ => Head::Startup,
    };
    Ok(Some((head, len)))
}

/// The key of a cancel request: pid and secret, the bytes that BackendKeyData carried.
pub(crate) fn cancel_key(request: &[u8]) -> &[u8] {
    request.get(8..).unwrap_or_default()
}

fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
}

/// A FATAL ErrorResponse.
pub(crate) fn fatal(sqlstate: &str, message: &str, hint: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(64 + message.len() + hint.len());
    let fields =
        [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', sqlstate), (b'M', message), (b'H', hint)];
    for (field, text) in fields {
        if !text.is_empty() {
            body.push(field);
            body.extend(text.bytes().filter(|byte| *byte != 0));
            body.push(0);
        }
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    let mut packet = vec![b'E'];
    packet.extend(length.to_be_bytes());
    packet.append(&mut body);
    packet
}

/// Walks the server's messages from its first byte to the first ReadyForQuery, and keeps the
/// BackendKeyData. Ends early on anything that isn't the protocol.
#[derive(Debug)]
pub(crate) struct LoginWalk {
    header: [u8; 5],
    header_len: u8,
    body_left: usize,
    key: Option<Vec<u8>>,
    done: bool,
}

/// The longest BackendKeyData body: pid and a secret of 256 bytes (protocol 3.2).
const KEY_MAX: usize = 4 + 256;

impl LoginWalk {
    pub(crate) const fn new() -> Self {
        Self { header: [0; 5], header_len: 0, body_left: 0, key: None, done: false }
    }

    /// Whether the login is over as far as the walk can tell.
    pub(crate) const fn is_done(&self) -> bool {
        self.done
    }

    /// Takes the key, once it has come as a whole.
    pub(crate) fn take_key(&mut self) -> Option<Vec<u8>> {
        let whole = self.header[0] != b'K' || self.body_left == 0;
        if whole { self.key.take() } else { None }
    }

    /// Goes over the next bytes of the server.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !self.done && !bytes.is_empty() {
            bytes = if self.body_left > 0 { self.body(bytes) } else { self.head(bytes) };
        }
    }

    fn body<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (part, rest) = bytes.split_at(self.body_left.min(bytes.len()));
        self.body_left -= part.len();
        if self.header[0] == b'K'
            && let Some(key) = &mut self.key
        {
            key.extend_from_slice(part);
        }
        rest
    }

    fn head<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let have = usize::from(self.header_len);
        let (part, rest) = bytes.split_at((5 - have).min(bytes.len()));
        self.header[have..have + part.len()].copy_from_slice(part);
        if have + part.len() < 5 {
            self.header_len = self.header_len.saturating_add(u8::try_from(part.len()).unwrap_or(5));
            return rest;
        }
        self.header_len = 0;
        let length = be_u32(&self.header, 1).unwrap_or(0) as usize;
        let Some(body) = length.checked_sub(4) else {
            self.done = true;
            return rest;
        };
        self.body_left = body;
        match self.header[0] {
            b'Z' => self.done = true,
            b'K' if body <= KEY_MAX => self.key = Some(Vec::with_capacity(body)),
            _ => {}
        }
        rest
    }
}
