//! The gateway's own TLS, for use without a web server in front.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::{Fault, Kind};
use crate::output::Output;

/// A certificate with its key, in files that may be renewed.
pub struct Tls {
    files: [PathBuf; 2],
    seen: Seen,
    acceptor: TlsAcceptor,
}

/// The modification time of each file. A certificate is often a link to the newest one.
type Seen = [Option<std::time::SystemTime>; 2];

impl Tls {
    /// Reads both files.
    pub fn load(certificate: &Path, key: &Path) -> Result<Tls> {
        let files = [certificate.to_owned(), key.to_owned()];
        Ok(Tls {
            seen: seen(&files),
            acceptor: acceptor(&files)?,
            files,
        })
    }

    /// The acceptor for new connections.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    /// Reads the files again if they have changed or if `asked`. If they cannot be used, the old
    /// certificate stays in use.
    pub fn reload(&mut self, asked: bool, output: &Output) {
        let now = seen(&self.files);
        if now == self.seen && !asked {
            return;
        }
        self.seen = now;
        match acceptor(&self.files) {
            Ok(acceptor) => {
                self.acceptor = acceptor;
                output.note("the certificate was read again");
            }
            Err(error) => output.warn(&format!("{error:#}; the previous certificate stays in use")),
        }
    }
}

fn seen(files: &[PathBuf; 2]) -> Seen {
    files
        .each_ref()
        .map(|file| file.metadata().ok()?.modified().ok())
}

fn acceptor([certificate, key]: &[PathBuf; 2]) -> Result<TlsAcceptor> {
    let read = || -> Result<ServerConfig> {
        let named = |file: &Path| file.display().to_string();
        let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect)
            .with_context(|| named(certificate))?;
        ensure!(
            !chain.is_empty(),
            "{} contains no certificate",
            named(certificate)
        );
        let key = PrivateKeyDer::from_pem_file(key).with_context(|| named(key))?;
        let config = ServerConfig::builder().with_no_client_auth();
        Ok(config.with_single_cert(chain, key)?)
    };
    let config = read().with_context(|| {
        Fault::new(Kind::Failed, "failed to use the TLS certificate")
            .hint("--certificate and --key must be PEM files that match each other")
    })?;
    Ok(TlsAcceptor::from(std::sync::Arc::new(config)))
}
