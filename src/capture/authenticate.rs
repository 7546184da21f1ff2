//! The server's challenges → the proofs that kck gives, by whatever method the server asks for.
//!
//! Passwords are proved by SCRAM-SHA-256, bound to the server's certificate where both sides can
//! (`tls-server-end-point`, RFC 5929), or by MD5; in clear text only over TLS or a Unix socket.

use bytes::Bytes;
use postgres_protocol::authentication::{
    md5_hash,
    sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256},
};
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::{
    connection::{Connection, Fault},
    cursor::Cursor,
};
use crate::postgres::address::Address;

const ACTION: &str = "log in to the source for replication";

/// What the server may ask for (`Authentication…` messages).
enum Challenge {
    Done,
    ClearText,
    Md5 { salt: [u8; 4] },
    Scram { plain: bool, bound: bool },
    Other(u32),
}

/// Answers the server until it lets kck in.
pub(super) async fn authenticate(
    connection: &mut Connection,
    address: &Address,
) -> Result<(), Fault> {
    let mut asked_password = false;
    loop {
        let (code, mut cursor) = challenge(connection).await?;
        match read_challenge(code, &mut cursor)? {
            Challenge::Done if !asked_password && address.requires_channel_binding() => {
                return Err(refused("the server asked for no channel binding"));
            }
            Challenge::Done => return Ok(()),
            Challenge::ClearText | Challenge::Md5 { .. } if address.requires_channel_binding() => {
                return Err(refused("the server asks for a password without channel binding"));
            }
            Challenge::ClearText if !connection.is_private() => {
                return Err(refused("the server asks for the password in clear text, without TLS"));
            }
            Challenge::ClearText => connection.send_password(password(address)?).await?,
            Challenge::Md5 { salt } => {
                let hash = md5_hash(address.user().as_bytes(), password(address)?, salt);
                connection.send_password(hash.as_bytes()).await?;
            }
            Challenge::Scram { plain, bound } => scram(connection, address, plain, bound).await?,
            Challenge::Other(code) => {
                return Err(refused(&format!("the server asks for method {code}, unknown to kck")));
            }
        }
        asked_password = true;
    }
}

fn read_challenge(code: u32, cursor: &mut Cursor) -> Result<Challenge, Fault> {
    Ok(match code {
        0 => Challenge::Done,
        3 => Challenge::ClearText,
        5 => Challenge::Md5 { salt: cursor.u32()?.to_be_bytes() },
        10 => {
            let (mut plain, mut bound) = (false, false);
            loop {
                match cursor.text()?.as_str() {
                    "" => break Challenge::Scram { plain, bound },
                    SCRAM_SHA_256 => plain = true,
                    SCRAM_SHA_256_PLUS => bound = true,
                    _ => {}
                }
            }
        }
        code => Challenge::Other(code),
    })
}

async fn scram(
    connection: &mut Connection,
    address: &Address,
    plain: bool,
    bound: bool,
) -> Result<(), Fault> {
    let fingerprint = match connection.server_certificate() {
        Some(certificate) if !address.disables_channel_binding() => fingerprint(certificate),
        _ => None,
    };
    let (mechanism, binding) = match fingerprint {
        Some(hash) if bound => (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash)),
        _ if address.requires_channel_binding() => {
            return Err(refused("channel binding is required and cannot be had"));
        }
        _ if !plain => return Err(refused("the server asks for a method unknown to kck")),
        // "We could have, but you did not offer": the server sees who removed the offer on the way.
        Some(_) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
        None => (SCRAM_SHA_256, ChannelBinding::unsupported()),
    };
    let refuse = |error: std::io::Error| refused(&error.to_string());
    let mut exchange = ScramSha256::new(password(address)?, binding);
    connection.send_scram_begin(mechanism, exchange.message()).await?;
    exchange.update(&step(connection, 11).await?).map_err(refuse)?;
    connection.send_scram_proof(exchange.message()).await?;
    exchange.finish(&step(connection, 12).await?).map_err(refuse)
}

/// The data of the next challenge, which must have this code.
async fn step(connection: &mut Connection, expected: u32) -> Result<Bytes, Fault> {
    let (code, mut cursor) = challenge(connection).await?;
    match code == expected {
        true => Ok(cursor.rest()),
        false => Err(cursor.fault(format!("method {code} where {expected} follows")).into()),
    }
}

async fn challenge(connection: &mut Connection) -> Result<(u32, Cursor), Fault> {
    let frame = connection.frame().await?;
    let mut cursor = Cursor::new(frame.body, "Authentication");
    match frame.tag {
        b'R' => Ok((cursor.u32()?, cursor)),
        tag => Err(cursor.fault(format!("message 0x{tag:02x} while logging in")).into()),
    }
}

fn password(address: &Address) -> Result<&[u8], Fault> {
    address.password().ok_or_else(|| refused("the server asks for a password and there is none"))
}

fn refused(fact: &str) -> Fault {
    Fault::Refused { action: ACTION, fact: fact.to_owned() }
}

/// The hash of a certificate by which channels are bound: that of its own signature, at least SHA-256. None where
/// the signature has no hash of its own (Ed25519) or states it in parameters (RSASSA-PSS).
fn fingerprint(certificate: &[u8]) -> Option<Vec<u8>> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA_SHA2: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
    let algorithm = signature_algorithm(certificate)?;
    let sha256 = || Some(Sha256::digest(certificate).to_vec());
    let (last, family) = algorithm.split_last()?;
    match (family, *last) {
        // MD5 and SHA-1 count as SHA-256.
        (RSA, 4 | 5 | 11) | (ECDSA_SHA2, 2) => sha256(),
        (RSA, 12) | (ECDSA_SHA2, 3) => Some(Sha384::digest(certificate).to_vec()),
        (RSA, 13) | (ECDSA_SHA2, 4) => Some(Sha512::digest(certificate).to_vec()),
        _ if algorithm == ECDSA_SHA1 => sha256(),
        _ => None,
    }
}

/// `Certificate ::= SEQUENCE { tbsCertificate SEQUENCE, signatureAlgorithm SEQUENCE { OBJECT IDENTIFIER, … }, … }`
/// → the bytes of that identifier.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const OBJECT_IDENTIFIER: u8 = 0x06;
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (_, rest) = element(certificate, SEQUENCE)?;
    let (algorithm, _) = element(rest, SEQUENCE)?;
    element(algorithm, OBJECT_IDENTIFIER).map(|(identifier, _)| identifier)
}

/// One element of DER with this tag → (its content, what follows).
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (_, rest) = der.split_first().filter(|(first, _)| **first == tag)?;
    let (short, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*short) {
        length @ 0..0x80 => (length, rest),
        // The number of bytes that the length has.
        long => {
            let (digits, rest) =
                rest.split_at_checked(long - 0x80).filter(|(d, _)| d.len() <= 4)?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], length.as_slice(), content].concat()
    }

    fn certificate(algorithm: &[u8]) -> Vec<u8> {
        let body = tagged(0x30, &[7; 300]);
        tagged(0x30, &[body, tagged(0x30, &tagged(0x06, algorithm))].concat())
    }

    fn length(algorithm: &[u8]) -> Option<usize> {
        fingerprint(&certificate(algorithm)).map(|hash| hash.len())
    }

    #[test]
    fn the_signature_chooses_the_hash() {
        let rsa = |last| [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, last];
        let ecdsa = |last| [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, last];
        assert_eq!(
            [4, 5, 11, 12, 13, 10].map(|last| length(&rsa(last))),
            [Some(32), Some(32), Some(32), Some(48), Some(64), None]
        );
        assert_eq!(
            [2, 3, 4, 9].map(|last| length(&ecdsa(last))),
            [Some(32), Some(48), Some(64), None]
        );
        let ed25519 = [0x2b, 0x65, 0x70];
        assert_eq!(length(&ed25519), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_certificate_or_none(bytes in vec(any::<u8>(), 0..100)) {
            drop(fingerprint(&bytes));
            drop(fingerprint(&tagged(0x30, &bytes)));
        }
    }
}
