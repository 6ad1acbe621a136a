//! What SCRAM's channel binding says of a server's certificate (RFC 5929, tls-server-end-point): its
//! hash, by the algorithm that it was signed with.

use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;
use sha2::{Digest, Sha256, Sha384, Sha512};

/// The last bytes of the object identifiers of signatures with RSA (PKCS#1) and ECDSA.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];

/// `None` where the RFC knows none, or where the handshake's signature could not be verified: such a
/// certificate proves nothing.
pub(crate) fn end_point(cert: &CertificateDer<'_>) -> Option<Vec<u8>> {
    ParsedCertificate::try_from(cert).ok()?;
    let (certificate, _) = element(cert)?;
    let (_, after_contents) = element(certificate)?;
    let (algorithm, _) = element(after_contents)?;
    let (oid, _) = element(algorithm)?;
    match (oid.strip_prefix(RSA), oid.strip_prefix(ECDSA)) {
        // MD5 and SHA-1 count as SHA-256.
        (Some([4 | 5 | 11]), _) | (_, Some([1] | [3, 2])) => Some(Sha256::digest(cert).to_vec()),
        (Some([12]), _) | (_, Some([3, 3])) => Some(Sha384::digest(cert).to_vec()),
        (Some([13]), _) | (_, Some([3, 4])) => Some(Sha512::digest(cert).to_vec()),
        _ => None,
    }
}

/// The contents of the first element of DER, and what follows it.
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&short, rest) = der.get(1..)?.split_first()?;
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(short & 0x0f))?;
            (bytes.iter().fold(0, |all, byte| all << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_both_lengths() {
        assert_eq!(element(&[0x30, 2, 7, 8, 9]), Some((&[7, 8][..], &[9][..])));
        let long = [&[0x30, 0x81, 130][..], &[1; 131]].concat();
        assert_eq!(element(&long).map(|(inner, rest)| (inner.len(), rest.len())), Some((130, 1)));
        assert_eq!(element(&[0x30, 5, 1]), None);
        assert_eq!(element(&[]), None);
    }
}
