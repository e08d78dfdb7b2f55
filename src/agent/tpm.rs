//! A small client of a TPM 2.0: raw commands, no library. It makes the two keys that attestation needs, proves that both
//! live in this chip, and quotes the registers of the boot.
//!
//! Keys are primary keys of fixed templates: the chip makes the same ones again whenever it is asked, so that nothing has
//! to be stored. The attestation key is one of the endorsement hierarchy, because only there do quotes bear the true
//! counters of starts. Every call leaves the chip as it found it. Blocking: call it off the threads that serve.
//! Source: TCG, Trusted Platform Module Library 2.0, Parts 1 to 3; TCG EK Credential Profile for TPM 2.0.

mod channel;
mod wire;

use std::collections::BTreeMap;

use channel::Channel;
pub use channel::Place;
use wire::{Answer, Command, sized};

/// Bytes of a command or an answer; TPMs have buffers of 4 KiB.
const MESSAGE_BYTES_MAX: usize = 4096;
/// Bytes of a certificate in the TPM's memory.
const CERTIFICATE_BYTES_MAX: usize = 8 * 1024;
/// Bytes that every TPM reads from its memory at once.
const CHUNK_BYTES: u16 = 512;
/// Registers that every TPM tells at once.
const REGISTERS_AT_ONCE: usize = 8;
/// How often registers are quoted again that changed meanwhile.
const QUOTE_ATTEMPTS: usize = 4;

/// TPM_RH_ENDORSEMENT.
const ENDORSEMENT: u32 = 0x4000_000b;
/// TPM_RH_NULL.
const NOBODY: u32 = 0x4000_0007;
/// TPM_RC_HANDLE for the first handle: there is no such index.
const NO_SUCH_INDEX: u32 = 0x18b;

/// What a key is, as TPMT_PUBLIC.
pub type Template = Vec<u8>;

/// Why the TPM did not do it. The text says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// It cannot be reached.
    #[error(
        "The TPM at {place} cannot be used: {cause}. Name a TPM 2.0 with --tpm: a device such as /dev/tpmrm0 (whose group this user must belong to), a Unix socket, or tcp://127.0.0.1:PORT."
    )]
    Channel {
        /// As it was named.
        place: String,
        /// Why.
        cause: String,
    },
    /// It answered a command with an error (Part 2, section 6.6).
    #[error("The TPM refused {command} with the code {code:#05x}.")]
    Refused {
        /// The command's name.
        command: &'static str,
        /// TPM_RC.
        code: u32,
    },
    /// Its answer is not one of a TPM 2.0.
    #[error("The TPM's answer to {0} cannot be read: it is no TPM 2.0, or a broken one.")]
    Unreadable(&'static str),
    /// Its registers change faster than they can be quoted.
    #[error("The TPM's registers changed while they were quoted. Try again when the machine has started up.")]
    Restless,
}

/// Which endorsement key (EK Credential Profile, annex B.3: templates L-1 and L-2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Endorsement {
    /// RSA of 2048 bits.
    Rsa2048,
    /// P-256.
    P256,
}

impl Endorsement {
    /// Where the TPM's maker left the certificate.
    pub const fn certificate_index(self) -> u32 {
        match self {
            Self::Rsa2048 => 0x01c0_0002,
            Self::P256 => 0x01c0_000a,
        }
    }

    /// The key, as the profile has it.
    pub fn template(self) -> Template {
        let head = match self {
            Self::Rsa2048 => 0x0001_000b_u32,
            Self::P256 => 0x0023_000b,
        };
        let mut out = head.to_be_bytes().to_vec();
        // fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt.
        out.extend(0x0003_00b2_u32.to_be_bytes());
        out.extend(sized(&POLICY_SECRET_ENDORSEMENT));
        // AES-128-CFB, no scheme.
        out.extend([0, 6, 0, 128, 0, 0x43, 0, 0x10]);
        match self {
            Self::Rsa2048 => {
                out.extend([8, 0, 0, 0, 0, 0]);
                out.extend(sized(&[0; 256]));
            }
            Self::P256 => {
                out.extend([0, 3, 0, 0x10]);
                out.extend(sized(&[0; 32]));
                out.extend(sized(&[0; 32]));
            }
        }
        out
    }
}

/// TPM2_PolicySecret for the endorsement hierarchy: what an endorsement key asks of who uses it.
const POLICY_SECRET_ENDORSEMENT: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7,
    0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];

/// The attestation key: P-256, restricted to signing what the TPM itself says, never leaving it.
pub fn attestation_template() -> Template {
    // fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign.
    signing_template(0x0005_0072)
}

/// A signing key on P-256 with these bits of TPMA_OBJECT; only those of [`attestation_template`] make one that attests.
pub fn signing_template(attributes: u32) -> Template {
    let mut out = 0x0023_000b_u32.to_be_bytes().to_vec();
    out.extend(attributes.to_be_bytes());
    // No policy, no cipher; ECDSA with SHA-256 on P-256, no derivation, the point left to the TPM.
    out.extend([0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10, 0, 0, 0, 0]);
    out
}

/// A key that the TPM holds at the moment.
#[derive(Clone, Debug)]
pub struct Key {
    handle: u32,
    /// TPMT_PUBLIC.
    pub public: Vec<u8>,
}

/// What the TPM says of its registers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quote {
    /// TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// Of the SHA-256 bank.
    pub registers: BTreeMap<u8, Vec<u8>>,
}

/// One TPM.
#[derive(Debug)]
pub struct Tpm {
    channel: Channel,
}

impl Tpm {
    /// Opens it.
    ///
    /// # Errors
    /// [`TpmError::Channel`].
    pub fn open(place: &Place) -> Result<Self, TpmError> {
        Ok(Self { channel: Channel::open(place)? })
    }

    fn run(&mut self, command: &Command) -> Result<Answer, TpmError> {
        self.channel.run(command)
    }

    /// Makes the primary key of the endorsement hierarchy that a template describes; [`Tpm::forget`] it afterwards.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn primary(&mut self, template: &[u8]) -> Result<Key, TpmError> {
        let command = Command::new("TPM2_CreatePrimary", 0x0131)
            .handle_by_password(ENDORSEMENT)
            .sized(&[0, 0, 0, 0])
            .sized(template)
            .sized(&[])
            .bytes(&[0, 0, 0, 0]);
        let mut answer = self.run(&command)?;
        let handle = answer.u32()?;
        answer.parameters()?;
        Ok(Key { handle, public: answer.sized()?.to_vec() })
    }

    /// Makes room for another key.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn forget(&mut self, key: Key) -> Result<(), TpmError> {
        self.flush(key.handle)
    }

    fn flush(&mut self, handle: u32) -> Result<(), TpmError> {
        let command = Command::new("TPM2_FlushContext", 0x0165).bytes(&handle.to_be_bytes());
        self.run(&command).map(drop)
    }

    /// The maker's certificate of an endorsement key, DER; `None` where the TPM has none.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn certificate(&mut self, of: Endorsement) -> Result<Option<Vec<u8>>, TpmError> {
        let index = of.certificate_index();
        let command = Command::new("TPM2_NV_ReadPublic", 0x0169).handle(index);
        let length = match self.run(&command) {
            Err(TpmError::Refused { code: NO_SUCH_INDEX, .. }) => return Ok(None),
            Err(error) => return Err(error),
            Ok(mut answer) => answer.index_length()?,
        };
        if usize::from(length) > CERTIFICATE_BYTES_MAX {
            return Err(TpmError::Unreadable("TPM2_NV_ReadPublic"));
        }
        let mut found = Vec::new();
        while found.len() < usize::from(length) {
            let offset = u16::try_from(found.len()).unwrap_or(u16::MAX);
            let size = CHUNK_BYTES.min(length - offset);
            let command = Command::new("TPM2_NV_Read", 0x014e)
                .handle_by_password(index)
                .handle(index)
                .bytes(&size.to_be_bytes())
                .bytes(&offset.to_be_bytes());
            let mut answer = self.run(&command)?;
            answer.parameters()?;
            let chunk = answer.sized()?;
            if chunk.len() != usize::from(size) {
                return Err(TpmError::Unreadable("TPM2_NV_Read"));
            }
            found.extend_from_slice(chunk);
        }
        Ok(wire::der_element(&found).map(<[u8]>::to_vec))
    }

    /// Opens a secret that was wrapped for this endorsement key and the name of this attestation key
    /// (TPM2_ActivateCredential); both parts with their length before them.
    ///
    /// # Errors
    /// [`TpmError::Refused`] when the secret is for another chip or for another key.
    pub fn activate(
        &mut self,
        endorsement: &Key,
        attestation: &Key,
        credential_blob: &[u8],
        encrypted_secret: &[u8],
    ) -> Result<Vec<u8>, TpmError> {
        // A policy session for names of SHA-256; its nonce protects nothing, because nothing here is keyed by it.
        let start = Command::new("TPM2_StartAuthSession", 0x0176)
            .handle(NOBODY)
            .handle(NOBODY)
            .sized(&[0; 16])
            .sized(&[])
            .bytes(&[1, 0, 0x10, 0, 0x0b]);
        let session = self.run(&start)?.u32()?;
        let opened = self.activate_in(session, endorsement, attestation, &[credential_blob, encrypted_secret].concat());
        if opened.is_err() {
            // A session that opened the secret is gone by itself.
            let _ = self.flush(session);
        }
        opened
    }

    fn activate_in(&mut self, session: u32, ek: &Key, ak: &Key, wrapped: &[u8]) -> Result<Vec<u8>, TpmError> {
        let allow = Command::new("TPM2_PolicySecret", 0x0151)
            .handle_by_password(ENDORSEMENT)
            .handle(session)
            .bytes(&[0; 6])
            .bytes(&[0; 4]);
        self.run(&allow)?;
        let activate = Command::new("TPM2_ActivateCredential", 0x0147)
            .handle_by_password(ak.handle)
            .handle_by_session(ek.handle, session)
            .bytes(wrapped);
        let mut answer = self.run(&activate)?;
        answer.parameters()?;
        Ok(answer.sized()?.to_vec())
    }

    /// Quotes these registers of the SHA-256 bank for a nonce.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn quote(&mut self, key: &Key, nonce: &[u8], pcrs: &[u8]) -> Result<Quote, TpmError> {
        for _ in 0..QUOTE_ATTEMPTS {
            let before = self.registers(pcrs)?;
            let command = Command::new("TPM2_Quote", 0x0158)
                .handle_by_password(key.handle)
                .sized(nonce)
                .bytes(&[0, 0x10])
                .bytes(&wire::selection(pcrs));
            let mut answer = self.run(&command)?;
            answer.parameters()?;
            let attest = answer.sized()?.to_vec();
            let signature = answer.rest_of_parameters()?.to_vec();
            if self.registers(pcrs)? == before {
                return Ok(Quote { attest, signature, registers: before });
            }
        }
        Err(TpmError::Restless)
    }

    fn registers(&mut self, pcrs: &[u8]) -> Result<BTreeMap<u8, Vec<u8>>, TpmError> {
        let mut found = BTreeMap::new();
        for some in pcrs.chunks(REGISTERS_AT_ONCE) {
            let command = Command::new("TPM2_PCR_Read", 0x017e).bytes(&wire::selection(some));
            let values = self.run(&command)?.register_values()?;
            if values.len() != some.len() {
                return Err(TpmError::Unreadable("TPM2_PCR_Read"));
            }
            found.extend(some.iter().copied().zip(values));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::sha256;

    /// Part 3, section 23.4: the digest of the policy follows from the command and whose secret it names.
    #[test]
    fn the_policy_of_endorsement_keys_is_the_secret_of_their_hierarchy() {
        let command = [&[0; 32][..], &0x0151_u32.to_be_bytes(), &ENDORSEMENT.to_be_bytes()].concat();
        assert_eq!(sha256(&sha256(&command)), POLICY_SECRET_ENDORSEMENT);
    }
}
