//! TLS to a probed target: any certificate is taken, because a probe asks whether the target answers, not who it is.
//! Its address is registered, its name is not known, so that there is nothing to compare a certificate with. The
//! handshake itself is checked in full. Why: docs/decisions/014.

use super::{Failed, Failure};
use crate::net::Connection;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{net::SocketAddr, sync::Arc};
use tokio_rustls::TlsConnector;

/// What is to be spoken inside, in the words of ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inside {
    /// Only the handshake counts.
    Nothing,
    Http1,
    H2,
}

/// The settings of all handshakes; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    nothing: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
    h2: Arc<ClientConfig>,
}

impl Tls {
    pub(super) fn new() -> Self {
        let provider = Arc::new(ring::default_provider());
        let config = |alpn: &[&[u8]]| {
            let mut config = ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .expect("ring knows the ciphers of both versions")
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider.clone())))
                .with_no_client_auth();
            config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
            // Every probe tests a whole handshake, and nothing is remembered for each target.
            config.resumption = Resumption::disabled();
            // A target is an address: it gets no name.
            config.enable_sni = false;
            Arc::new(config)
        };
        Self { nothing: config(&[]), http1: config(&[b"http/1.1"]), h2: config(&[b"h2"]) }
    }

    /// A handshake over an open connection.
    pub(super) async fn over(
        &self,
        connection: Connection,
        address: SocketAddr,
        inside: Inside,
    ) -> Result<Connection, Failed> {
        let config = match inside {
            Inside::Nothing => &self.nothing,
            Inside::Http1 => &self.http1,
            Inside::H2 => &self.h2,
        };
        let (local, remote) = (connection.local_addr(), connection.remote_addr());
        let name = ServerName::IpAddress(address.ip().into());
        let handshake = TlsConnector::from(config.clone()).connect(name, connection);
        let stream = handshake
            .await
            .map_err(|error| Failed::new(Failure::Tls, format!("TLS handshake: {error}")))?;
        if inside == Inside::H2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            let text = "TLS handshake: the target does not offer h2, which gRPC needs";
            return Err(Failed::new(Failure::Tls, text));
        }
        Ok(Connection::new(stream, local, remote))
    }
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
