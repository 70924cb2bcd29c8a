//! The cluster's certificate authority, made for one run, and what it signs: one certificate per component,
//! and the key pair of service account tokens. Kubeconfigs are written from these.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose,
};
use serde_json::json;

/// The authority and the directory that its products are written to.
pub(crate) struct Pki {
    directory: PathBuf,
    authority: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key on disk.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// PEM file of the certificate.
    pub(crate) certificate: PathBuf,
    /// PEM file of the key.
    pub(crate) key: PathBuf,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Pki").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Pki {
    /// Makes an authority and writes `ca.crt` and the token keys `sa.key`, `sa.pub`.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub(crate) fn create(directory: PathBuf) -> Result<Self> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = name("vnpu-test-ca", None);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let authority = CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?;
        let pki = Self { directory, authority };
        pki.write("ca.crt", &pki.authority.pem())?;
        let tokens = KeyPair::generate()?;
        pki.write("sa.key", &tokens.serialize_pem())?;
        pki.write("sa.pub", &tokens.public_key_pem())?;
        Ok(pki)
    }

    /// A file of the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Signs a client certificate for the Kubernetes user `user` in `group`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn client(&self, file: &str, user: &str, group: Option<&str>) -> Result<Identity> {
        self.sign(file, user, group, &[])
    }

    /// Signs a certificate that serves for `hosts` (names and addresses), and as a client too.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn server(&self, file: &str, user: &str, hosts: &[String]) -> Result<Identity> {
        self.sign(file, user, None, hosts)
    }

    fn sign(&self, file: &str, user: &str, group: Option<&str>, hosts: &[String]) -> Result<Identity> {
        let mut parameters = CertificateParams::new(hosts.to_vec())?;
        parameters.distinguished_name = name(user, group);
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !hosts.is_empty() {
            parameters.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &self.authority)?;
        Ok(Identity {
            certificate: self.write(&format!("{file}.crt"), &certificate.pem())?,
            key: self.write(&format!("{file}.key"), &key.serialize_pem())?,
        })
    }

    /// Writes a kubeconfig for `server` that authenticates by certificate.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn kubeconfig(&self, to: &Path, server: &str, identity: &Identity) -> Result<()> {
        let user = json!({"client-certificate": identity.certificate, "client-key": identity.key});
        self.write_kubeconfig(to, server, &user)
    }

    /// Writes a kubeconfig for `server` that authenticates by the bearer token in `token`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn token_kubeconfig(&self, to: &Path, server: &str, token: &str) -> Result<()> {
        self.write_kubeconfig(to, server, &json!({"token": token}))
    }

    fn write_kubeconfig(&self, to: &Path, server: &str, user: &serde_json::Value) -> Result<()> {
        // JSON is YAML, and every reader of kubeconfigs takes it.
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "vnpu",
            "clusters": [{"name": "vnpu", "cluster": {"server": server, "certificate-authority": self.path("ca.crt")}}],
            "users": [{"name": "vnpu", "user": user}],
            "contexts": [{"name": "vnpu", "context": {"cluster": "vnpu", "user": "vnpu"}}],
        });
        write_secret(to, &serde_json::to_string_pretty(&config)?)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        write_secret(&path, text)?;
        Ok(path)
    }
}

fn name(common: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    if let Some(organisation) = organisation {
        name.push(DnType::OrganizationName, organisation);
    }
    name
}

/// Writes a file that only its owner reads.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("writing {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}
