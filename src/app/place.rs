//! The appliance's place on the disk: folders, sealing key, CA and server certificate; made at the first start.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{Config, SubjectName};
use crate::crypto::certs::{self, CaPair};
use crate::crypto::{SealError, SealingKey};
use crate::kernel::{Clock, Error, Random, Result, files};

/// Where each file is.
#[derive(Clone, Debug)]
pub struct Place {
    /// The data file.
    pub data: PathBuf,
    /// Keys and certificates.
    pub certs: PathBuf,
    /// Where a service takes its sealing key from.
    service_key: Option<PathBuf>,
}

/// A new certificate is made when a third of the old one's life is left.
pub fn renew_before(config: &Config) -> Duration {
    config.tls.certificate_lifetime / 3
}

/// What the public listener needs.
pub struct ServerFiles {
    /// The chain, leaf first.
    pub chain_pem: String,
    /// The key.
    pub key_pem: String,
}

impl Place {
    /// The place that the configuration names.
    pub fn of(config: &Config) -> Self {
        let service_key = config.paths.sealing_key.clone();
        Self { data: config.paths.data.clone(), certs: config.paths.certs.clone(), service_key }
    }

    /// The CA's certificate, for the clients.
    pub fn ca_certificate(&self) -> PathBuf {
        self.certs.join("ca.pem")
    }

    /// Where the first secrets are written when nobody sits at a terminal.
    pub fn secrets_file(&self) -> PathBuf {
        self.certs.join("first-start-secrets.txt")
    }

    /// The local socket of the running appliance.
    pub fn control_socket(&self) -> PathBuf {
        self.data.with_extension("sock")
    }

    /// Where the sealing key lies, unless the environment or a systemd credential holds it: among the other keys, or where
    /// a service takes it from.
    pub fn sealing_file(&self) -> PathBuf {
        let own = self.certs.join("sealing.key");
        match &self.service_key {
            Some(file) if !own.exists() && file.exists() => file.clone(),
            _ => own,
        }
    }

    /// Makes the folders that are missing, for their owner alone.
    pub fn make_folders(&self) -> Result<()> {
        let parent = self.data.parent().filter(|p| !p.as_os_str().is_empty());
        for folder in parent.into_iter().chain([self.certs.as_path()]) {
            files::create_private_dir(folder).map_err(|e| cannot("made", folder, &e))?;
            tighten(folder)?;
        }
        Ok(())
    }

    /// The sealing key from the environment, a systemd credential or its file.
    pub fn sealing_key(&self) -> Result<Option<SealingKey>, SealError> {
        let variable = |name: &str| std::env::var(name).ok();
        Ok(SealingKey::load(&variable, &self.sealing_file())?.map(|(key, _)| key))
    }

    /// The sealing key, made if there is none yet.
    pub fn sealing_key_or_new(&self, random: &Random) -> Result<SealingKey> {
        match self.sealing_key().map_err(Error::internal)? {
            Some(key) => Ok(key),
            None => SealingKey::create_file(&self.sealing_file(), random).map_err(Error::internal),
        }
    }

    /// The CA, made if there is none yet.
    pub fn ca(&self, clock: &Clock, random: &Random) -> Result<CaPair> {
        let (cert, key) = (self.ca_certificate(), self.certs.join("ca.key"));
        if cert.is_file() {
            return Ok(CaPair { cert_pem: read(&cert)?, key_pem: read(&key)?.into() });
        }
        let name = format!("BlockRemote CA of {}", host_name());
        let ca = certs::make_ca(&name, clock.now(), random).map_err(Error::internal)?;
        write(&key, ca.key_pem.as_bytes())?;
        write(&cert, ca.cert_pem.as_bytes())?;
        Ok(ca)
    }

    /// The server's certificate: the administrator's own where configured, else ours, made or renewed as needed.
    pub fn server_files(&self, config: &Config, clock: &Clock, random: &Random) -> Result<ServerFiles> {
        if let Some((chain, key)) = config.tls.own_files() {
            return Ok(ServerFiles { chain_pem: read(chain)?, key_pem: read(key)? });
        }
        let ca = self.ca(clock, random)?;
        let (chain, key) = (self.certs.join("server.pem"), self.certs.join("server.key"));
        if chain.is_file() && key.is_file() {
            let chain_pem = read(&chain)?;
            let ends = certs::not_after(&chain_pem).map_err(Error::internal)?;
            let ours = certs::is_issued_by(&chain_pem, &ca.cert_pem);
            if ours && ends > clock.now().plus(renew_before(config)) && covers(&chain_pem, config) {
                return Ok(ServerFiles { chain_pem, key_pem: read(&key)? });
            }
        }
        let (names, addresses) = subjects(config);
        let made = certs::issue_server(&ca, &names, &addresses, clock.now(), config.tls.certificate_lifetime, random);
        let pair = made.map_err(Error::internal)?;
        let chain_pem = format!("{}{}", pair.cert_pem, ca.cert_pem);
        for old in [&chain, &key] {
            match std::fs::remove_file(old) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(cannot("replaced", old, &e)),
                _ => {}
            }
        }
        write(&key, pair.key_pem.as_bytes())?;
        write(&chain, chain_pem.as_bytes())?;
        Ok(ServerFiles { chain_pem, key_pem: pair.key_pem.to_string() })
    }

    /// The CA for the page by which clients come to trust it; `None` where the administrator brought a certificate.
    pub fn authority(&self, config: &Config) -> Result<Option<crate::gate::Authority>> {
        if config.tls.own_files().is_some() {
            return Ok(None);
        }
        let pem = read(&self.ca_certificate())?;
        let fingerprint = certs::fingerprint_sha256(&pem).map_err(Error::internal)?;
        Ok(Some(crate::gate::Authority { pem, fingerprint }))
    }

    /// The CA's fingerprint, as people compare it.
    pub fn ca_fingerprint(&self) -> Result<String> {
        certs::fingerprint_sha256(&read(&self.ca_certificate())?).map_err(Error::internal)
    }
}

/// A folder that others may enter is closed to them: keys lie in it.
fn tighten(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(folder).map_err(|e| cannot("read", folder, &e))?.permissions().mode();
    if mode & 0o077 != 0 {
        files::restrict(folder, 0o700).map_err(|e| cannot("closed to others", folder, &e))?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| cannot("read", path, &e))
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    files::write_private(path, content).map_err(|e| cannot("written", path, &e))
}

fn cannot(what: &str, path: &Path, e: &std::io::Error) -> Error {
    Error::Internal(format!("{} could not be {what}: {e}", path.display()))
}

/// The machine's name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Whether a certificate holds every name that the configuration and the machine give now, and every IPv4 address: those
/// of IPv6 come and go by themselves, and nobody types them.
fn covers(chain_pem: &str, config: &Config) -> bool {
    let Ok((names, addresses)) = certs::subjects(chain_pem) else { return false };
    let (wanted_names, wanted_addresses) = subjects(config);
    wanted_names.iter().all(|name| names.contains(name))
        && wanted_addresses.iter().filter(|a| a.is_ipv4()).all(|address| addresses.contains(address))
}

/// What clients on the LAN may call this machine.
pub fn subjects(config: &Config) -> (Vec<String>, Vec<IpAddr>) {
    let mut names = vec!["localhost".to_owned()];
    let host = host_name();
    if certs::is_dns_name(&host) {
        names.push(host.clone());
        // By this name it is announced, whatever its domain is.
        names.push(format!("{}.local", host.split('.').next().unwrap_or(&host)));
    }
    let mut addresses: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    // A machine whose interfaces cannot be listed still gets a certificate for localhost; tls.names adds the rest.
    addresses.extend(if_addrs::get_if_addrs().unwrap_or_default().into_iter().map(|i| i.ip()));
    for subject in &config.tls.names {
        match subject {
            SubjectName::Dns(name) => names.push(name.clone()),
            SubjectName::Address(ip) => addresses.push(*ip),
        }
    }
    names.dedup();
    addresses.sort();
    addresses.dedup();
    const EACH_MAX: usize = 32;
    names.truncate(EACH_MAX);
    addresses.truncate(EACH_MAX);
    (names, addresses)
}
