//! The database URL as libpq reads it: `sslmode` and `sslrootcert`, and the TLS client that follows from them.
//!
//! `disable` never encrypts; `allow` and `prefer` encrypt when the server can; `require` insists on it without looking
//! at the certificate (with `sslrootcert`: as `verify-ca`); `verify-ca` checks the chain, `verify-full` also the name.
//! Refuses to verify against nothing: without `sslrootcert` and without a system bundle the last two are an error.

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

/// Where distributions keep the certificates they trust.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// How much of the server's certificate is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Nothing,
    Chain,
    ChainAndName,
}

/// A URL taken apart: what the client library understands, and what only we do.
#[derive(Debug)]
pub(super) struct Target {
    /// Host, user, database and the library's own options.
    pub(super) config: tokio_postgres::Config,
    check: Check,
    roots: Option<PathBuf>,
}

/// Reads a database URL. The error never quotes it: it holds a password.
pub(super) fn parse(url: &str) -> Result<Target, String> {
    if !(url.starts_with("postgresql://") || url.starts_with("postgres://")) {
        return Err("expected a URL that begins with postgresql:// or postgres://".to_owned());
    }
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (mut mode, mut roots, mut rest) = ("prefer".to_owned(), None, Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = url::form_urlencoded::parse(pair.as_bytes()).next().unwrap_or_default();
        match name.as_ref() {
            "sslmode" => mode = value.into_owned(),
            "sslrootcert" => roots = Some(value.into_owned()),
            _ => rest.push(pair),
        }
    }
    let plain = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
    let mut config: tokio_postgres::Config = plain.parse().map_err(|e| super::error::chain(&e))?;
    let (ssl, check) = match mode.as_str() {
        "disable" => (SslMode::Disable, Check::Nothing),
        "allow" | "prefer" => (SslMode::Prefer, Check::Nothing),
        "require" if roots.is_some() => (SslMode::Require, Check::Chain),
        "require" => (SslMode::Require, Check::Nothing),
        "verify-ca" => (SslMode::Require, Check::Chain),
        "verify-full" => (SslMode::Require, Check::ChainAndName),
        _ => {
            return Err(
                "sslmode is not one of disable, allow, prefer, require, verify-ca, verify-full".to_owned()
            );
        }
    };
    config.ssl_mode(ssl);
    if config.get_hosts().is_empty() {
        return Err("the URL names no host".to_owned());
    }
    let roots = roots.filter(|name| name != "system").map(PathBuf::from);
    Ok(Target { config, check, roots })
}

impl Target {
    /// The TLS client for this target.
    pub(super) fn connector(&self) -> Result<MakeRustlsConnect, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("TLS: {e}"))?;
        let config = match self.check {
            Check::Nothing => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
                .with_no_client_auth(),
            Check::Chain => {
                let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(self.roots()?), provider)
                    .build()
                    .map_err(|e| format!("TLS: {e}"))?;
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(AnyName(inner)))
                    .with_no_client_auth()
            }
            Check::ChainAndName => builder.with_root_certificates(self.roots()?).with_no_client_auth(),
        };
        Ok(MakeRustlsConnect::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let path = match &self.roots {
            Some(path) => path.as_path(),
            None => SYSTEM_BUNDLES.iter().map(Path::new).find(|path| path.is_file()).ok_or(
                "this sslmode needs certificates: name a file with sslrootcert, or install ca-certificates",
            )?,
        };
        let unreadable = |e: &dyn std::fmt::Display| format!("sslrootcert {}: {e}", path.display());
        let mut store = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|e| unreadable(&e))? {
            // A bundle may hold a certificate this library cannot use; the others still count.
            let _ = store.add(certificate.map_err(|e| unreadable(&e))?);
        }
        if store.is_empty() { Err(unreadable(&"holds no usable certificate")) } else { Ok(store) }
    }
}

/// `require`: encrypts, trusts whoever answers.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// `verify-ca`: the chain must hold, the name may differ.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The chain is checked before the name, so a wrong name means that the chain holds.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_of_libpq_is_understood() {
        let table = [
            ("", SslMode::Prefer, Check::Nothing),
            ("?sslmode=disable", SslMode::Disable, Check::Nothing),
            ("?sslmode=allow", SslMode::Prefer, Check::Nothing),
            ("?sslmode=require", SslMode::Require, Check::Nothing),
            ("?sslmode=require&sslrootcert=/ca.pem", SslMode::Require, Check::Chain),
            ("?connect_timeout=3&sslmode=verify-ca", SslMode::Require, Check::Chain),
            ("?sslmode=verify-full&sslrootcert=%2Fa%20b.pem", SslMode::Require, Check::ChainAndName),
        ];
        for (query, ssl, check) in table {
            let target = parse(&format!("postgresql://u:p@h:5432/d{query}")).expect(query);
            assert_eq!((target.config.get_ssl_mode(), target.check), (ssl, check), "{query}");
        }
        let spaced = parse("postgres://h/d?sslrootcert=%2Fa%20b.pem").expect("parses");
        assert_eq!(spaced.roots, Some(PathBuf::from("/a b.pem")));
    }

    #[test]
    fn a_refused_url_is_not_quoted() {
        for url in [
            "mysql://u:hunter2@h/d",
            "postgresql://u:hunter2@h/d?sslmode=maybe",
            "postgresql://u:hunter2@h:x/d",
        ] {
            let error = parse(url).expect_err(url);
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn verifying_against_a_missing_or_empty_file_is_an_error_not_a_panic() {
        let empty = tempfile::NamedTempFile::new().expect("temporary file");
        let empty = empty.path().display().to_string();
        for path in ["/does/not/exist.pem", empty.as_str()] {
            let target =
                parse(&format!("postgresql://h/d?sslmode=verify-full&sslrootcert={path}")).expect("parses");
            assert!(target.connector().is_err(), "{path}");
        }
        assert!(parse("postgresql://h/d?sslmode=require").expect("parses").connector().is_ok());
    }
}
