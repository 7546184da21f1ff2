//! An address → the replication transport: TLS, login, questions in the simple protocol, and copy-both frames.
//!
//! Protocol: <https://www.postgresql.org/docs/current/protocol-replication.html>. Frames are split here, since
//! the message parser of `postgres_protocol` does not know `CopyBothResponse`.

use std::{io, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use super::{Error, authenticate::authenticate, cursor::Cursor, pgoutput::EPOCH_2000};
use crate::{
    change::Lsn,
    postgres::{
        address::{Address, Endpoint, TlsMode},
        connect::{SETTINGS, application_name},
        tls,
    },
};

/// How much is read at once; received rows share memory in pieces of this size.
const CHUNK: usize = 256 * 1024;

/// The largest message: what one row can take in PostgreSQL.
const FRAME_MAX: usize = 1 << 30;

/// The largest message before the server has let kck in: nobody need be believed yet.
const FRAME_MAX_LOGIN: usize = 64 * 1024;

/// What went wrong on one connection; [`super::stream`] decides what it means for the stream.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The server said so.
    #[error("{action}: {said}")]
    Server { action: &'static str, said: ServerError },
    /// The network, or TLS.
    #[error("{action}")]
    Network {
        action: &'static str,
        #[source]
        source: io::Error,
    },
    /// kck does not do what the server asks.
    #[error("{action}: {fact}")]
    Refused { action: &'static str, fact: String },
    /// The address's TLS files cannot be used.
    #[error(transparent)]
    Tls(#[from] crate::postgres::error::Error),
    /// The server sent what the protocol does not allow.
    #[error(transparent)]
    Protocol(#[from] Error),
}

/// An `ErrorResponse`.
#[derive(Debug, Clone, PartialEq, Eq, Default, thiserror::Error)]
#[error("{message} (SQLSTATE {sqlstate}){}{detail}", if detail.is_empty() { "" } else { ": " })]
pub(super) struct ServerError {
    pub(super) sqlstate: String,
    pub(super) message: String,
    pub(super) detail: String,
}

/// One message of the server.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

/// One message of the copy-both stream.
#[derive(Debug)]
pub(super) enum Message {
    /// A message of the output plugin.
    Log(Bytes),
    /// The server has sent everything up to `position`.
    Keepalive { position: Lsn, reply: bool },
    /// The server warns.
    Notice(ServerError),
    /// Something beside the stream, of no concern.
    Aside,
}

/// What kck tells the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status {
    /// Received up to here.
    pub(super) received: Lsn,
    /// Acknowledged up to here.
    pub(super) acknowledged: Lsn,
    /// The server is to answer at once.
    pub(super) reply: bool,
}

trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A connection in replication mode.
pub(super) struct Connection {
    transport: Box<dyn Transport>,
    /// Received and not yet split into frames.
    buffer: BytesMut,
    frame_max: usize,
    /// Nobody on the way can read it: TLS, or a Unix socket.
    private: bool,
    certificate: Option<Vec<u8>>,
    pid: i32,
    /// What an error of the server interrupts.
    doing: &'static str,
}

impl Connection {
    /// Connects to one endpoint of the address and logs in.
    pub(super) async fn open(address: &Address, endpoint: &Endpoint) -> Result<Self, Fault> {
        let mode = address.tls().mode;
        let first = Self::open_with(address, endpoint, mode != TlsMode::Disable).await;
        match first {
            // As libpq: what is only preferred is given up when it does not work.
            Err(_) if mode == TlsMode::Prefer && !address.requires_channel_binding() => {
                Self::open_with(address, endpoint, false).await
            }
            first => first,
        }
    }

    async fn open_with(address: &Address, endpoint: &Endpoint, tls: bool) -> Result<Self, Fault> {
        const ACTION: &str = "connect to the source for replication";
        let opening = Box::pin(async {
            let mut connection = connect(address, endpoint, tls).await?;
            connection.start(address).await?;
            Ok(connection)
        });
        let late = |_| Fault::Network { action: ACTION, source: io::ErrorKind::TimedOut.into() };
        timeout(address.connect_timeout(), opening).await.map_err(late)?
    }

    fn new(
        transport: impl Transport + 'static,
        private: bool,
        certificate: Option<Vec<u8>>,
    ) -> Self {
        let (transport, buffer) = (Box::new(transport), BytesMut::with_capacity(CHUNK));
        let (frame_max, pid, doing) = (FRAME_MAX_LOGIN, 0, "log in to the source for replication");
        Self { transport, buffer, frame_max, private, certificate, pid, doing }
    }

    /// A connection that is logged in already, for tests.
    #[cfg(test)]
    pub(super) fn streaming(transport: std::io::Cursor<Vec<u8>>) -> Self {
        let mut connection = Self::new(transport, false, None);
        connection.frame_max = FRAME_MAX;
        connection
    }

    /// How much memory waits for frames.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.buffer.capacity()
    }

    /// Startup, login, and everything the server says until it is ready.
    async fn start(&mut self, address: &Address) -> Result<(), Fault> {
        const ACTION: &str = "start a session for replication";
        let (name, options) = (application_name("stream"), address.options(SETTINGS));
        let parameters = [
            ("user", address.user()),
            ("database", address.database()),
            ("replication", "database"),
            ("client_encoding", "UTF8"),
            ("application_name", &name),
            ("options", &options),
        ];
        self.send(ACTION, |out| frontend::startup_message(parameters, out)).await?;
        authenticate(self, address).await?;
        self.frame_max = FRAME_MAX;
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                b'K' => self.pid = Cursor::new(frame.body, "BackendKeyData").u32()?.cast_signed(),
                b'Z' => break,
                _ => {}
            }
        }
        self.doing = "follow the replication stream";
        Ok(())
    }

    /// The server's process.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// Nobody on the way can read it.
    pub(super) fn is_private(&self) -> bool {
        self.private
    }

    /// The certificate that the server showed.
    pub(super) fn server_certificate(&self) -> Option<&[u8]> {
        self.certificate.as_deref()
    }

    pub(super) async fn send_password(&mut self, password: &[u8]) -> Result<(), Fault> {
        self.send("send the password", |out| frontend::password_message(password, out)).await
    }

    pub(super) async fn send_scram_begin(
        &mut self,
        mechanism: &str,
        message: &[u8],
    ) -> Result<(), Fault> {
        let write = |out: &mut _| frontend::sasl_initial_response(mechanism, message, out);
        self.send("begin SCRAM", write).await
    }

    pub(super) async fn send_scram_proof(&mut self, message: &[u8]) -> Result<(), Fault> {
        self.send("prove the password", |out| frontend::sasl_response(message, out)).await
    }

    /// Asks in the simple protocol; gives the rows as text.
    pub(super) async fn query(
        &mut self,
        action: &'static str,
        sql: &str,
    ) -> Result<Vec<Vec<Option<String>>>, Fault> {
        self.send(action, |out| frontend::query(sql, out)).await?;
        let mut rows = Vec::new();
        let mut failed = None;
        loop {
            let frame = self.any_frame().await?;
            match frame.tag {
                b'D' => rows.push(text_row(frame.body)?),
                b'E' => failed = Some(server_error(frame.body)?),
                b'Z' => break,
                _ => {}
            }
        }
        failed.map_or(Ok(rows), |said| Err(Fault::Server { action, said }))
    }

    /// Turns the connection into a stream of [`Message`]s; when refused, questions may be asked again.
    pub(super) async fn start_replication(&mut self, command: &str) -> Result<(), Fault> {
        const ACTION: &str = "start replication";
        self.send(ACTION, |out| frontend::query(command, out)).await?;
        let mut failed = None;
        loop {
            let frame = self.any_frame().await?;
            match frame.tag {
                b'W' => return Ok(()),
                b'E' => failed = Some(server_error(frame.body)?),
                b'Z' => break,
                _ => {}
            }
        }
        let fact = || "the server is ready for another command".to_owned();
        let protocol = || Error::Protocol { message: "CopyBothResponse", fact: fact() }.into();
        Err(failed.map_or_else(protocol, |said| Fault::Server { action: ACTION, said }))
    }

    /// The next message of the stream. May be dropped at any await without losing anything.
    pub(super) async fn message(&mut self) -> Result<Message, Fault> {
        let frame = self.frame().await?;
        read_message(frame)
    }

    /// The next message, if it has been received already.
    pub(super) fn received_message(&mut self) -> Result<Option<Message>, Fault> {
        let frame = self.split()?.map(|frame| self.refuse_error(frame)).transpose()?;
        frame.map(read_message).transpose()
    }

    /// Tells the server how far kck is.
    pub(super) async fn send_status(&mut self, status: Status) -> Result<(), Fault> {
        let mut body = Vec::with_capacity(34);
        body.push(b'r');
        body.extend(status.received.0.to_be_bytes());
        body.extend(status.acknowledged.0.to_be_bytes());
        body.extend(status.acknowledged.0.to_be_bytes());
        body.extend(clock().to_be_bytes());
        body.push(u8::from(status.reply));
        let write = |out: &mut BytesMut| {
            frontend::CopyData::new(body.as_slice()).map(|message| message.write(out))
        };
        self.send("tell the server how far kck is", write).await
    }

    /// Leaves, and waits until the server has let go of the slot.
    pub(super) async fn close(mut self) -> Result<(), Fault> {
        let terminate = |out: &mut BytesMut| {
            frontend::terminate(out);
            Ok(())
        };
        self.send("leave", terminate).await?;
        while self.fill().await? > 0 {
            self.buffer.clear();
        }
        Ok(())
    }

    /// The next frame; an `ErrorResponse` is the error that it says. Cancel-safe.
    pub(super) async fn frame(&mut self) -> Result<Frame, Fault> {
        let frame = self.any_frame().await?;
        self.refuse_error(frame)
    }

    async fn any_frame(&mut self) -> Result<Frame, Fault> {
        const ACTION: &str = "read from the replication connection";
        loop {
            if let Some(frame) = self.split()? {
                return Ok(frame);
            }
            if self.fill().await? == 0 {
                let source = io::ErrorKind::UnexpectedEof.into();
                return Err(Fault::Network { action: ACTION, source });
            }
        }
    }

    fn refuse_error(&self, frame: Frame) -> Result<Frame, Fault> {
        match frame.tag {
            b'E' => Err(Fault::Server { action: self.doing, said: server_error(frame.body)? }),
            _ => Ok(frame),
        }
    }

    /// Splits the next frame off what has been received: a tag, a length that counts itself, a body.
    fn split(&mut self) -> Result<Option<Frame>, Fault> {
        let Some([tag, a, b, c, d]) = self.buffer.first_chunk::<5>().copied() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length < 4 || length > self.frame_max {
            let fact = format!("{length} bytes, where {} are the limit", self.frame_max);
            return Err(Error::Protocol { message: "a frame", fact }.into());
        }
        let missing = (length + 1).saturating_sub(self.buffer.len());
        if missing > 0 {
            // A length alone is not believed: room grows with what comes.
            self.buffer.reserve(missing.min(self.buffer.len().max(CHUNK)));
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(length + 1);
        frame.advance(5);
        Ok(Some(Frame { tag, body: frame.freeze() }))
    }

    async fn fill(&mut self) -> Result<usize, Fault> {
        const ACTION: &str = "read from the replication connection";
        if self.buffer.capacity() - self.buffer.len() < CHUNK / 16 {
            self.buffer.reserve(CHUNK);
        }
        let read = self.transport.read_buf(&mut self.buffer).await;
        read.map_err(|source| Fault::Network { action: ACTION, source })
    }

    async fn send(
        &mut self,
        action: &'static str,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), Fault> {
        let mut out = BytesMut::new();
        let sending = async {
            write(&mut out)?;
            self.transport.write_all(&out).await?;
            self.transport.flush().await
        };
        sending.await.map_err(|source| Fault::Network { action, source })
    }
}

async fn connect(address: &Address, endpoint: &Endpoint, tls: bool) -> Result<Connection, Fault> {
    const ACTION: &str = "connect to the source for replication";
    let network = |source| Fault::Network { action: ACTION, source };
    let (host, stream) = match endpoint {
        Endpoint::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(network)?;
            return Ok(Connection::new(stream, true, None));
        }
        Endpoint::Tcp { host, address: Some(ip), port } => {
            (host, TcpStream::connect((*ip, *port)).await)
        }
        Endpoint::Tcp { host, address: None, port } => {
            (host, TcpStream::connect((host.as_str(), *port)).await)
        }
    };
    let mut stream = stream.map_err(network)?;
    stream.set_nodelay(true).map_err(network)?;
    if !tls {
        return Ok(Connection::new(stream, false, None));
    }
    if !offers_tls(&mut stream).await.map_err(network)? {
        return match address.tls().mode {
            TlsMode::Prefer | TlsMode::Disable => Ok(Connection::new(stream, false, None)),
            _ => Err(Fault::Refused { action: ACTION, fact: "the server has no TLS".to_owned() }),
        };
    }
    let name = ServerName::try_from(host.clone()).map_err(|error| Fault::Refused {
        action: ACTION,
        fact: format!("host '{host}': {error}"),
    })?;
    let connector = TlsConnector::from(Arc::clone(&tls::client_config(address.tls())?));
    let stream = connector.connect(name, stream).await.map_err(network)?;
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().and_then(<[_]>::first).map(|c| c.to_vec());
    Ok(Connection::new(stream, true, certificate))
}

/// Asks for TLS. The answer is one byte: reading more would let somebody on the way slip in plain text.
async fn offers_tls(stream: &mut TcpStream) -> io::Result<bool> {
    let mut out = BytesMut::new();
    frontend::ssl_request(&mut out);
    stream.write_all(&out).await?;
    match stream.read_u8().await? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        _ => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the server does not know TLS requests"))
        }
    }
}

fn server_error(body: Bytes) -> Result<ServerError, Fault> {
    let mut cursor = Cursor::new(body, "ErrorResponse");
    let mut said = ServerError::default();
    loop {
        match cursor.u8()? {
            0 => return Ok(said),
            b'C' => said.sqlstate = cursor.text()?,
            b'M' => said.message = cursor.text()?,
            b'D' => said.detail = cursor.text()?,
            _ => drop(cursor.text()?),
        }
    }
}

fn text_row(body: Bytes) -> Result<Vec<Option<String>>, Fault> {
    let mut cursor = Cursor::new(body, "DataRow");
    let mut row = Vec::with_capacity(cursor.count()?);
    for _ in 0..row.capacity() {
        row.push(match cursor.u32()? {
            u32::MAX => None,
            length => Some(String::from_utf8_lossy(&cursor.bytes(length)?).into_owned()),
        });
    }
    Ok(row)
}

fn read_message(frame: Frame) -> Result<Message, Fault> {
    let mut cursor = Cursor::new(frame.body, "CopyData");
    match frame.tag {
        b'd' => {}
        b'N' => return server_error(cursor.rest()).map(Message::Notice),
        // A changed parameter.
        b'S' => return Ok(Message::Aside),
        // The server goes: CopyDone, CommandComplete, ReadyForQuery.
        b'c' | b'C' | b'Z' => {
            let source =
                io::Error::new(io::ErrorKind::UnexpectedEof, "the server ended the stream");
            return Err(Fault::Network { action: "follow the replication stream", source });
        }
        tag => return Err(cursor.fault(format!("message 0x{tag:02x} in the stream")).into()),
    }
    match cursor.u8()? {
        b'w' => {
            // Where the message starts, where the log ends, the server's clock.
            for _ in 0..3 {
                cursor.u64()?;
            }
            Ok(Message::Log(cursor.rest()))
        }
        b'k' => {
            let position = Lsn(cursor.u64()?);
            cursor.u64()?;
            Ok(Message::Keepalive { position, reply: cursor.u8()? == 1 })
        }
        kind => Err(cursor.fault(format!("unknown kind 0x{kind:02x}")).into()),
    }
}

/// Microseconds since 2000; the server only shows them to people.
fn clock() -> i64 {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let micros = since_1970.map_or(0, |elapsed| elapsed.as_micros());
    i64::try_from(micros).unwrap_or(i64::MAX).saturating_sub(EPOCH_2000)
}
