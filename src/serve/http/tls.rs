//! Certificate and key → a TLS acceptor that takes up new files by itself.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{observe::Observer, postgres::describe_chain};

/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Where certificate and key lie, both in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The server's certificate, and those between it and the authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadTls {
    /// One cannot be read, or holds something else.
    #[error("read {}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// They do not belong together, or are of a kind that is not known.
    #[error("use certificate and key")]
    Pair(#[source] rustls::Error),
}

/// Shakes hands with what the files held when they were last sound.
#[derive(Clone)]
pub struct Tls {
    files: Files,
    current: watch::Sender<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn open(files: Files) -> Result<Self, BadTls> {
        let (current, _) = watch::channel(Arc::new(read(&files)?));
        Ok(Self { files, current })
    }

    /// The connection once hands are shaken, and whether it speaks HTTP/2; `None` when they are not.
    pub(super) async fn accept(&self, stream: TcpStream) -> Option<(TlsStream<TcpStream>, bool)> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.current.borrow()));
        match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                Some((stream, http2))
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "no TLS");
                None
            }
            Err(_) => None,
        }
    }

    /// Takes up files that were put in the place of others; what is not sound leaves the old ones in use, and shows.
    pub(super) async fn keep(self, observer: Observer) {
        let mut seen = stamps(&self.files);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = stamps(&self.files);
            if now == seen {
                continue;
            }
            match read(&self.files) {
                Ok(config) => {
                    self.current.send_replace(Arc::new(config));
                    observer.part("tls", None);
                    tracing::info!("took up a new certificate");
                }
                Err(error) => observer.part("tls", Some(describe_chain(&error))),
            }
            seen = now;
        }
    }
}

type FileStamp = Option<(std::time::SystemTime, u64)>;

fn stamps(files: &Files) -> [FileStamp; 2] {
    let stamp = |path: &Path| {
        let seen = std::fs::metadata(path).ok()?;
        Some((seen.modified().ok()?, seen.len()))
    };
    [stamp(&files.certificate), stamp(&files.key)]
}

fn read(files: &Files) -> Result<ServerConfig, BadTls> {
    let bad = |file: &Path| {
        let file = file.to_owned();
        move |source| BadTls::File { file, source }
    };
    let certificates = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(bad(&files.certificate))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(bad(&files.key))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, key))
        .map_err(BadTls::Pair)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
