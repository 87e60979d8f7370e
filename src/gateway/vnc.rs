//! The VNC handshake (RFC 6143, section 7) with QEMU, which requires a password.

use std::io;

use des::Des;
use des::cipher::{Array, BlockCipherEncrypt, KeyInit};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The only version that QEMU and browsers use.
pub const VERSION: &[u8; 12] = b"RFB 003.008\n";

/// No password is required. This is offered to browsers: their token was checked.
pub const NONE: u8 = 1;

/// A password is required.
const PASSWORD: u8 = 2;

/// Logs in with `password`, as one of several clients. The server's greeting follows. An error of
/// the kind "permission denied" means that the password is wrong.
pub async fn enter<S>(server: &mut S, password: &str) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut version = [0; VERSION.len()];
    server.read_exact(&mut version).await?;
    if !version.starts_with(b"RFB 003.") {
        return Err(io::Error::other("it is not a VNC server"));
    }
    server.write_all(VERSION).await?;
    let mut kinds = vec![0; server.read_u8().await?.into()];
    server.read_exact(&mut kinds).await?;
    if !kinds.contains(&PASSWORD) {
        return Err(io::Error::other("it does not require a password"));
    }
    server.write_u8(PASSWORD).await?;
    let mut challenge = [0; 16];
    server.read_exact(&mut challenge).await?;
    server.write_all(&answer(password, challenge)).await?;
    match server.read_u32().await? {
        0 => server.write_u8(1).await,
        _ => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// The answer to a challenge: DES with the password as the key, with the bits of each byte
/// mirrored.
fn answer(password: &str, mut challenge: [u8; 16]) -> [u8; 16] {
    let mut key = [0; 8];
    for (key, byte) in key.iter_mut().zip(password.bytes()) {
        *key = byte.reverse_bits();
    }
    let des = Des::new(&Array(key));
    let (blocks, _) = challenge.as_chunks_mut::<8>();
    for block in blocks {
        let mut cipher = Array(*block);
        des.encrypt_block(&mut cipher);
        *block = cipher.0;
    }
    challenge
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `openssl enc -des-ede3` with the mirrored key three times.
    #[test]
    fn a_challenge_is_answered_as_others_do() {
        let challenge = *b"0123456789abcdef";
        assert_eq!(answer("WkUtFYbN", challenge), ANSWER);
        assert_ne!(answer("WkUtFYbM", challenge), ANSWER);
    }

    const ANSWER: [u8; 16] = [
        99, 92, 19, 205, 176, 181, 57, 22, 20, 219, 181, 14, 59, 172, 163, 15,
    ];

    fn talk(kinds: &[u8], result: u32) -> (io::Result<()>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (mut ours, mut theirs) = tokio::io::duplex(1024);
            let mut said = VERSION.to_vec();
            said.push(u8::try_from(kinds.len()).unwrap());
            said.extend(kinds);
            said.extend([7; 16]);
            said.extend(result.to_be_bytes());
            theirs.write_all(&said).await.unwrap();
            let entered = enter(&mut ours, "password").await;
            drop(ours);
            let mut heard = Vec::new();
            theirs.read_to_end(&mut heard).await.unwrap();
            (entered, heard)
        })
    }

    #[test]
    fn it_enters_with_a_password_alone_and_as_one_of_several() {
        let (entered, heard) = talk(&[PASSWORD], 0);
        entered.unwrap();
        let expected = [VERSION, &[PASSWORD][..], &answer("password", [7; 16]), &[1]].concat();
        assert_eq!(heard, expected);
        let refused = talk(&[PASSWORD], 1).0.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(
            talk(&[NONE], 0).0.is_err(),
            "a console that is open to everyone"
        );
    }
}
