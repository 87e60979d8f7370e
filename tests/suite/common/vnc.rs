//! As much of a VNC client (RFC 6143) as it takes to see who is let in: over TCP, and over
//! WebSocket (RFC 6455) as a browser comes.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Stdio;

use super::tool;

/// "Come in": no password is asked for.
pub const NONE: u8 = 1;
/// A password is asked for.
pub const PASSWORD: u8 = 2;

/// A connection to a VNC server that has said what it asks for.
#[derive(Debug)]
pub struct Client<S> {
    stream: S,
    /// The kinds of authentication that the server accepts.
    pub security: Vec<u8>,
}

impl Client<TcpStream> {
    /// Connects to a VNC port of this machine.
    pub fn connect(port: u16) -> Self {
        Client::greet(dial(port))
    }
}

impl Client<WebSocket> {
    /// Connects to a port that speaks VNC over WebSocket.
    pub fn connect_by_websocket(port: u16) -> Self {
        Client::greet(WebSocket::open(port))
    }
}

impl<S: Read + Write> Client<S> {
    fn greet(mut stream: S) -> Self {
        let version: [u8; 12] = read(&mut stream);
        assert!(version.starts_with(b"RFB 003."), "{version:?}");
        stream.write_all(b"RFB 003.008\n").unwrap();
        let [count] = read(&mut stream);
        let mut security = vec![0; count.into()];
        stream.read_exact(&mut security).unwrap();
        Client { stream, security }
    }

    /// Whether the server lets this password in.
    pub fn accepts(mut self, password: &str) -> bool {
        self.authenticate(password)
    }

    /// Goes in with this password, learns the size of the screen and sees the picture begin. The client
    /// is there until what is returned is dropped.
    pub fn enter(mut self, password: &str) -> (S, [u16; 2]) {
        assert!(self.authenticate(password));
        let shared = 1;
        self.stream.write_all(&[shared]).unwrap();
        let greeting: [u8; 24] = read(&mut self.stream);
        let [w0, w1, h0, h1, ..] = greeting;
        let (update_request, whole) = (3, 0);
        let request = [update_request, whole, 0, 0, 0, 0, w0, w1, h0, h1];
        self.stream.write_all(&request).unwrap();
        // The domain's name, and then the picture, once there is one.
        let [.., n0, n1, n2, n3] = greeting;
        for _ in 0..u32::from_be_bytes([n0, n1, n2, n3]) {
            let _: [u8; 1] = read(&mut self.stream);
        }
        let _beginning: [u8; 1024] = read(&mut self.stream);
        let size = [[w0, w1], [h0, h1]].map(u16::from_be_bytes);
        (self.stream, size)
    }

    fn authenticate(&mut self, password: &str) -> bool {
        self.stream.write_all(&[PASSWORD]).unwrap();
        let challenge: [u8; 16] = read(&mut self.stream);
        self.stream.write_all(&des(password, &challenge)).unwrap();
        read(&mut self.stream) == [0_u8; 4]
    }

    /// The picture that whoever has this password gets: width, height, and how many bytes of it came
    /// in its first rectangle.
    pub fn picture(mut self, password: &str) -> (u16, u16, usize) {
        assert!(self.authenticate(password), "the password is refused");
        self.stream.write_all(&[1]).unwrap(); // shared
        let size: [u8; 4] = read(&mut self.stream);
        let [width, height] = [[size[0], size[1]], [size[2], size[3]]].map(u16::from_be_bytes);
        let format: [u8; 16] = read(&mut self.stream);
        let name: [u8; 4] = read(&mut self.stream);
        let mut name = vec![0; u32::from_be_bytes(name).try_into().unwrap()];
        self.stream.read_exact(&mut name).unwrap();
        // The first row, whole.
        let mut request = vec![3, 0, 0, 0, 0, 0];
        request.extend([width, 1].map(u16::to_be_bytes).concat());
        self.stream.write_all(&request).unwrap();
        let [kind, _, _, rectangles]: [u8; 4] = read(&mut self.stream);
        assert_eq!((kind, rectangles > 0), (0, true), "no picture");
        let header: [u8; 12] = read(&mut self.stream);
        let [w, h] = [[header[4], header[5]], [header[6], header[7]]].map(u16::from_be_bytes);
        assert_eq!(header[8..], [0; 4], "not raw pixels");
        let mut pixels = vec![0; usize::from(w) * usize::from(h) * usize::from(format[0] / 8)];
        self.stream.read_exact(&mut pixels).unwrap();
        (width, height, pixels.len())
    }
}

fn dial(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
    stream
}

fn read<const N: usize>(stream: &mut impl Read) -> [u8; N] {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// VNC's answer to a challenge: DES with the password as the key, each byte of it mirrored. Triple
/// DES with one key three times is plain DES, which OpenSSL no longer has by default.
fn des(password: &str, challenge: &[u8; 16]) -> Vec<u8> {
    let mut key = [0; 8];
    key.iter_mut()
        .zip(password.bytes())
        .for_each(|(key, byte)| *key = byte.reverse_bits());
    let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut openssl = tool("openssl")
        .args(["enc", "-des-ede3", "-nopad", "-K", &key.repeat(3)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    openssl.stdin.take().unwrap().write_all(challenge).unwrap();
    openssl.wait_with_output().unwrap().stdout
}

/// A WebSocket of binary messages.
#[derive(Debug)]
pub struct WebSocket {
    stream: TcpStream,
    received: VecDeque<u8>,
}

impl WebSocket {
    fn open(port: u16) -> WebSocket {
        let mut stream = dial(port);
        let request = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Protocol: binary\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.extend(read::<1>(&mut stream));
        }
        assert!(
            answer.starts_with(b"HTTP/1.1 101"),
            "{}",
            answer.escape_ascii()
        );
        WebSocket {
            stream,
            received: VecDeque::new(),
        }
    }
}

impl Read for WebSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.received.is_empty() {
            let [_kind, length] = read(&mut self.stream);
            let length = match length {
                126 => u16::from_be_bytes(read(&mut self.stream)),
                short => short.into(),
            };
            let mut payload = vec![0; length.into()];
            self.stream.read_exact(&mut payload)?;
            self.received.extend(payload);
        }
        self.received.read(buffer)
    }
}

impl Write for WebSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = u8::try_from(bytes.len().min(125)).unwrap_or(125);
        // A client masks what it sends; with this mask it stays as it is.
        let mut frame = vec![0x82, 0x80 | length, 0, 0, 0, 0];
        frame.extend(&bytes[..length.into()]);
        self.stream.write_all(&frame)?;
        Ok(length.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
