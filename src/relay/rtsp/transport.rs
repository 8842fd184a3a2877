//! How a client wants to get a track's packets: its `Transport` header (RFC 2326 section 12.39).

use std::net::IpAddr;

/// One transport that the header offers, and that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Over the RTSP connection, on these channels or on ones of our choice.
    Interleaved(Option<(u8, u8)>),
    /// By UDP to these ports of the address that the connection comes from.
    Udp { rtp: u16, rtcp: u16 },
}

/// Why a transport is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("RTP over this connection (RTP/AVP/TCP) and by UDP (RTP/AVP) are known")]
    Unknown,
    #[error("multicast is not served: ask for unicast")]
    Multicast,
    #[error("destination= is refused: packets go to the address that this connection comes from")]
    Elsewhere,
    #[error("client_port= must name two different ports from 1024 on")]
    Ports,
    #[error("interleaved= must name two different channels")]
    Channels,
    #[error("mode= is not PLAY")]
    Mode,
}

/// Ports below belong to the system's services: nobody receives video there, and nobody shall be sent it.
const FIRST_PORT: u16 = 1024;

/// The transports of a header, in the order of the client's preference. `peer` is where its connection comes from.
pub fn wishes(header: &str, peer: IpAddr) -> impl Iterator<Item = Result<Wish, Unfit>> + '_ {
    header.split(',').map(move |transport| wish(transport, peer))
}

fn wish(transport: &str, peer: IpAddr) -> Result<Wish, Unfit> {
    let mut parts = transport.split(';').map(str::trim);
    let protocol = parts.next().unwrap_or_default().to_ascii_uppercase();
    let mut ports = None;
    let mut channels = None;
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "multicast" => return Err(Unfit::Multicast),
            "destination" if value.trim().parse() != Ok(peer) => return Err(Unfit::Elsewhere),
            "mode" if !value.trim().trim_matches('"').eq_ignore_ascii_case("PLAY") => {
                return Err(Unfit::Mode);
            }
            "client_port" => ports = Some(value),
            "interleaved" => channels = Some(value),
            _ => {}
        }
    }
    match protocol.as_str() {
        "RTP/AVP/TCP" => {
            channels.map(|text| pair::<u8>(text).ok_or(Unfit::Channels)).transpose().map(Wish::Interleaved)
        }
        "RTP/AVP" | "RTP/AVP/UDP" => {
            let (rtp, rtcp) = ports.and_then(pair::<u16>).ok_or(Unfit::Ports)?;
            let allowed = rtp.min(rtcp) >= FIRST_PORT;
            allowed.then_some(Wish::Udp { rtp, rtcp }).ok_or(Unfit::Ports)
        }
        _ => Err(Unfit::Unknown),
    }
}

/// `a-b`, or `a` alone with the one after it.
fn pair<N: std::str::FromStr + PartialEq + Copy + Into<u32> + TryFrom<u32>>(text: &str) -> Option<(N, N)> {
    let (first, second) = text.split_once('-').map_or((text, None), |(first, second)| (first, Some(second)));
    let first: N = first.trim().parse().ok()?;
    let second = match second.map(str::trim).filter(|second| !second.is_empty()) {
        Some(second) => second.parse().ok()?,
        None => N::try_from(first.into() + 1).ok()?,
    };
    (first != second).then_some((first, second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_are_read_as_clients_write_them() {
        let peer: IpAddr = "192.0.2.7".parse().unwrap();
        let first = |header: &str| wishes(header, peer).next().unwrap();
        let udp = |rtp, rtcp| Ok(Wish::Udp { rtp, rtcp });
        let tcp = |channels| Ok(Wish::Interleaved(channels));
        for (header, expected) in [
            ("RTP/AVP/TCP;unicast;interleaved=0-1", tcp(Some((0, 1)))),
            ("rtp/avp/tcp;interleaved=8", tcp(Some((8, 9)))),
            ("RTP/AVP/TCP;unicast", tcp(None)),
            ("RTP/AVP/TCP;interleaved=255", Err(Unfit::Channels)),
            ("RTP/AVP/TCP;interleaved=4-4", Err(Unfit::Channels)),
            ("RTP/AVP;unicast;client_port=5000-5001", udp(5000, 5001)),
            ("RTP/AVP/UDP; unicast; client_port = 5000", udp(5000, 5001)),
            ("RTP/AVP;unicast;client_port=65535", Err(Unfit::Ports)),
            ("RTP/AVP;unicast;client_port=53-54", Err(Unfit::Ports)),
            ("RTP/AVP;unicast;client_port=5000-5000", Err(Unfit::Ports)),
            ("RTP/AVP;unicast", Err(Unfit::Ports)),
            ("RTP/AVP;multicast;port=5000-5001", Err(Unfit::Multicast)),
            ("RTP/AVP;unicast;destination=198.51.100.1;client_port=5000-5001", Err(Unfit::Elsewhere)),
            ("RTP/AVP;unicast;destination=;client_port=5000-5001", Err(Unfit::Elsewhere)),
            ("RTP/AVP;unicast;destination=192.0.2.7;client_port=5000-5001", udp(5000, 5001)),
            ("RTP/AVP;unicast;client_port=5000-5001;mode=\"PLAY\"", udp(5000, 5001)),
            ("RTP/AVP;unicast;client_port=5000-5001;mode=record", Err(Unfit::Mode)),
            ("RTP/SAVP;unicast;client_port=5000-5001", Err(Unfit::Unknown)),
            ("", Err(Unfit::Unknown)),
        ] {
            assert_eq!(first(header), expected, "{header}");
        }
        let both = "RTP/AVP/UDP;unicast;client_port=5004-5005,RTP/AVP/TCP;interleaved=2";
        assert_eq!(wishes(both, peer).collect::<Vec<_>>(), [udp(5004, 5005), tcp(Some((2, 3)))]);
    }
}
