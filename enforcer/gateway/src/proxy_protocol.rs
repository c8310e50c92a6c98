//! The header by which a load balancer says whose connection it hands on: the PROXY protocol, versions 1 and 2
//! (HAProxy's specification of 2020).
//!
//! Only what it says of the client's address is taken; TLVs are skipped, but for a checksum, which must hold.

use std::{
    error::Error,
    io,
    net::{IpAddr, SocketAddr},
};

use ppp::{v1, v2};
use tokio::io::{AsyncReadExt, ReadBuf};

use super::{audited::Unmade, connection::unmapped, metrics::Handshake, socket::Socket, worker::Place};
use enforcer_model::flow::Flow;

/// The longest header of version 1, in bytes, with its line end.
const LONGEST_V1: usize = 107;
/// The longest header of version 2 that is read, in bytes.
const LONGEST_V2: usize = 2048;
/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What version 2 always has: the signature, version and command, family and protocol, length.
const FIXED_V2: usize = 16;
/// The type of a TLV that is the header's checksum, and the bytes before a TLV's value.
const CRC32C: u8 = 0x03;
const TLV_HEAD: usize = 3;

/// Whose a connection is. That it came by a load balancer is said here, and never told from two addresses being the
/// same: a load balancer need not name a client, and may name one at its own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// The client connected by itself.
    Peer(SocketAddr),
    /// The load balancer at `proxy` handed it on. Without a client (`UNKNOWN`, `LOCAL`) it is the load balancer's own,
    /// or somebody's whom it does not name.
    Behind {
        proxy: SocketAddr,
        client: Option<SocketAddr>,
    },
}

impl Whose {
    /// The address that rules, limits per source and services see. Both versions ask receivers to take the load
    /// balancer's where it names no client.
    pub(super) fn address(self) -> SocketAddr {
        match self {
            Self::Peer(peer) => peer,
            Self::Behind { proxy, client } => client.unwrap_or(proxy),
        }
    }

    /// Whose attempts count together: `None` where a load balancer does not say whose it is.
    pub(super) fn source(self) -> Option<IpAddr> {
        match self {
            Self::Peer(peer) => Some(peer.ip()),
            Self::Behind { client, .. } => client.map(|client| client.ip()),
        }
    }

    /// The client that a load balancer has named.
    pub(super) fn named(self) -> Option<SocketAddr> {
        match self {
            Self::Peer(_) => None,
            Self::Behind { client, .. } => client,
        }
    }

    /// The load balancer that it came by.
    pub(super) fn proxy(self) -> Option<IpAddr> {
        match self {
            Self::Peer(_) => None,
            Self::Behind { proxy, .. } => Some(proxy.ip()),
        }
    }
}

/// Why a connection is not taken for anybody's.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    #[error("the connection broke before its PROXY header was complete")]
    Broken(#[from] io::Error),
    #[error("there is no PROXY header")]
    Missing,
    #[error("the PROXY header is longer than it may be")]
    TooLong,
    #[error("the PROXY header of version 1 is malformed")]
    V1(#[from] v1::BinaryParseError),
    #[error("the PROXY header of version 2 is malformed")]
    V2(#[from] v2::ParseError),
    #[error("the PROXY header is about no TCP connection over IP")]
    NotTcp,
    #[error("the PROXY header's checksum does not hold")]
    Checksum,
}

/// Whose connection it is, as a load balancer says in the header that it begins with. It takes a part of the client's
/// share; of the load balancer's own where it names no client, so that all such connections together have one share.
///
/// # Errors
/// That there is no such header in time, that the client is denied, or that it has no place left.
pub(super) async fn introduced(
    place: &mut Place,
    stream: &mut Socket,
    flow: Flow,
) -> Result<Whose, Handshake> {
    let within = place.listener.timeouts.handshake;
    let client = match tokio::time::timeout(within, read(stream)).await {
        Ok(Ok(named)) => named.map(unmapped),
        Ok(Err(error)) => {
            let (listener, peer) = (&place.listener.name, flow.peer);
            tracing::debug!(%listener, %peer, error = &error as &dyn Error, "nobody's connection");
            return Err(Handshake::ProxyHeader);
        }
        Err(_) => return Err(Handshake::ProxyHeader),
    };
    let whose = Whose::Behind {
        proxy: flow.peer,
        client,
    };
    if let Some(client) = client
        && let Some(reason) = place.worker.observer.denied(client.ip())
    {
        let unmade = Unmade {
            result: Handshake::Denied,
            reason: "denied",
            detail: &reason,
        };
        unmade.audit(place, whose);
        return Err(Handshake::Denied);
    }
    let charged = whose.address().ip();
    place.part = Some(place.worker.admit_source(&place.listener, charged)?);
    Ok(whose)
}

/// Reads the header from `stream`, and not a byte more. Whose connection it is; `None`: the load balancer's own.
///
/// # Errors
/// When there is none that can be believed.
async fn read(stream: &mut Socket) -> Result<Option<SocketAddr>, ProxyError> {
    // No header of either version is shorter than this.
    let mut header = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut header).await?;
    if header == SIGNATURE {
        header.resize(FIXED_V2, 0);
        stream.read_exact(&mut header[SIGNATURE.len()..]).await?;
        let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if FIXED_V2 + length > LONGEST_V2 {
            return Err(ProxyError::TooLong);
        }
        header.resize(FIXED_V2 + length, 0);
        stream.read_exact(&mut header[FIXED_V2..]).await?;
        return version_2(&header);
    }
    if !header.starts_with(b"PROXY ") {
        return Err(ProxyError::Missing);
    }
    while !header.ends_with(b"\n") {
        let room = LONGEST_V1 - header.len();
        if room == 0 {
            return Err(ProxyError::TooLong);
        }
        let mut buffer = [0; LONGEST_V1];
        let mut ahead = ReadBuf::new(&mut buffer[..room]);
        std::future::poll_fn(|context| stream.tcp().poll_peek(context, &mut ahead)).await?;
        let waiting = ahead.filled();
        if waiting.is_empty() {
            return Err(ProxyError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        let end = waiting.iter().position(|&byte| byte == b'\n');
        let (known, more) = (header.len(), end.map_or(waiting.len(), |end| end + 1));
        header.resize(known + more, 0);
        stream.read_exact(&mut header[known..]).await?;
    }
    version_1(&header)
}

/// The header of version 2 that says that the connection from `source` to `destination` is handed on. Where one address
/// is of IPv4 and the other of IPv6, both are written as IPv6 (RFC 4291 section 2.5.5.2).
///
/// # Errors
/// Never for two addresses; the encoder may say so for longer headers.
pub(super) fn header(source: SocketAddr, destination: SocketAddr) -> io::Result<Vec<u8>> {
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    let addresses = if source.is_ipv4() == destination.is_ipv4() {
        (source, destination)
    } else {
        (mapped(source), mapped(destination))
    };
    let command = v2::Version::Two | v2::Command::Proxy;
    v2::Builder::with_addresses(command, v2::Protocol::Stream, addresses).build()
}

/// Reads a whole line.
pub(super) fn version_1(line: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
    Ok(match v1::Header::try_from(line)?.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(tcp) => Some((tcp.source_address, tcp.source_port).into()),
        v1::Addresses::Tcp6(tcp) => Some((tcp.source_address, tcp.source_port).into()),
    })
}

/// Reads a whole header.
pub(super) fn version_2(bytes: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
    let header = v2::Header::try_from(bytes)?;
    let mut place = bytes.len() - header.tlv_bytes().len();
    for tlv in header.tlvs() {
        let tlv = tlv?;
        let value = place + TLV_HEAD..place + TLV_HEAD + tlv.value.len();
        place = value.end;
        if tlv.kind == CRC32C && tlv.value[..] != checksum(bytes, value.start).to_be_bytes() {
            return Err(ProxyError::Checksum);
        }
    }
    if header.command == v2::Command::Local {
        return Ok(None);
    }
    match (&header.addresses, header.protocol) {
        (v2::Addresses::Unspecified, _) | (_, v2::Protocol::Unspecified) => Ok(None),
        (v2::Addresses::IPv4(tcp), v2::Protocol::Stream) => {
            Ok(Some((tcp.source_address, tcp.source_port).into()))
        }
        (v2::Addresses::IPv6(tcp), v2::Protocol::Stream) => {
            Ok(Some((tcp.source_address, tcp.source_port).into()))
        }
        _ => Err(ProxyError::NotTcp),
    }
}

/// CRC32C (RFC 3720 appendix B.4) of the header, whose four bytes at `field` count as zero.
fn checksum(bytes: &[u8], field: usize) -> u32 {
    let counted = bytes.iter().enumerate().map(|(at, &byte)| {
        let is_own = (field..field + 4).contains(&at);
        if is_own { 0 } else { byte }
    });
    !counted.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 * (crc & 1))
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_standards_own_checksums() {
        // RFC 3720 appendix B.4; the field lies outside.
        for (bytes, expected) in [
            ([0x00; 32], 0x8a91_36aa),
            ([0xff; 32], 0x62a8_ab43),
            (std::array::from_fn(|at| at as u8), 0x46dd_794e),
        ] {
            assert_eq!(checksum(&bytes, 32), expected);
        }
    }

    /// A header of version 2 for TCP over IPv4 or IPv6 with these TLVs.
    fn header(source: SocketAddr, tlvs: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let local: SocketAddr = match source {
            SocketAddr::V4(_) => "192.0.2.1:443".parse().unwrap(),
            SocketAddr::V6(_) => "[2001:db8::1]:443".parse().unwrap(),
        };
        let builder = v2::Builder::with_addresses(
            v2::Version::Two | v2::Command::Proxy,
            v2::Protocol::Stream,
            (source, local),
        );
        let build =
            |builder: v2::Builder, (kind, value): &(u8, Vec<u8>)| builder.write_tlv(*kind, value).unwrap();
        tlvs.iter().fold(builder, build).build().unwrap()
    }

    proptest! {
        #[test]
        fn what_is_said_of_the_client_is_read(
            source: (IpAddr, u16),
            tlvs in prop::collection::vec((4u8.., prop::collection::vec(any::<u8>(), 0..40)), 0..4),
        ) {
            let source = SocketAddr::from(source);
            prop_assert_eq!(version_2(&header(source, &tlvs)).unwrap(), Some(source));
            let (ip, port) = (source.ip(), source.port());
            let line = match ip {
                IpAddr::V4(_) => format!("PROXY TCP4 {ip} 192.0.2.1 {port} 443\r\n"),
                IpAddr::V6(_) => format!("PROXY TCP6 {ip} 2001:db8::1 {port} 443\r\n"),
            };
            prop_assert!(line.len() <= LONGEST_V1);
            prop_assert_eq!(version_1(line.as_bytes()).unwrap(), Some(source));
        }

        #[test]
        fn no_change_passes_the_checksum(at in 0usize.., bit in 0u8..8) {
            let mut bytes = header("192.0.2.7:1234".parse().unwrap(), &[(CRC32C, vec![0; 4]), (0xe0, vec![1, 2, 3])]);
            let field = FIXED_V2 + 12 + TLV_HEAD;
            let sum = checksum(&bytes, field).to_be_bytes();
            bytes[field..field + 4].copy_from_slice(&sum);
            prop_assert!(version_2(&bytes).unwrap().is_some());
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            // The change may hide that there is a checksum; then the header is malformed or says something else.
            let is_hidden = (FIXED_V2 - 4..FIXED_V2).contains(&at) || (field - TLV_HEAD..field).contains(&at);
            prop_assert!(is_hidden || version_2(&bytes).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), signed in any::<bool>()) {
            let mut bytes = bytes;
            if signed && bytes.len() >= FIXED_V2 {
                bytes[..12].copy_from_slice(SIGNATURE);
                bytes[12] = 0x21;
                let length = (bytes.len() - FIXED_V2) as u16;
                bytes[14..16].copy_from_slice(&length.to_be_bytes());
            }
            drop((version_1(&bytes), version_2(&bytes)));
        }
    }
}
