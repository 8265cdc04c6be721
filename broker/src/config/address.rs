//! Where to listen: `host:port` as people write it. Nothing here resolves a name or opens a socket.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// A host (name or address) and a port. Port 0 asks the system for a free one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    #[error("it has no port; write HOST:PORT, for example 127.0.0.1:9092")]
    NoPort,
    #[error("the port {port:?} is no number from 0 to 65535")]
    Port { port: String },
    #[error(
        "the host {host:?} is neither a name nor an address; IPv6 goes in brackets, [::1]:9092"
    )]
    Host { host: String },
    #[error("listener {protocol} is not supported; only PLAINTEXT is")]
    Protocol { protocol: String },
    #[error("one listener is supported, {count} are given")]
    Several { count: usize },
}

impl Address {
    /// Reads `host:port`. An empty host means every interface, as in Kafka's `PLAINTEXT://:9092`.
    ///
    /// # Errors
    /// [`InvalidAddress`] says what is missing.
    pub fn parse(text: &str) -> Result<Self, InvalidAddress> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidAddress::NoPort)?;
        let port = port.parse().map_err(|_| InvalidAddress::Port { port: port.to_owned() })?;
        Ok(Self { host: parse_host(host)?, port })
    }

    /// Reads one listener in Kafka's form, `PLAINTEXT://host:port`; a bare `host:port` is the same.
    ///
    /// # Errors
    /// [`InvalidAddress`]: several listeners, or a protocol that needs TLS or authentication.
    pub fn parse_listener(text: &str) -> Result<Self, InvalidAddress> {
        let count = text.split(',').count();
        if count > 1 {
            return Err(InvalidAddress::Several { count });
        }
        match text.split_once("://") {
            Some(("PLAINTEXT", address)) => Self::parse(address),
            Some((protocol, _)) => Err(InvalidAddress::Protocol { protocol: protocol.to_owned() }),
            None => Self::parse(text),
        }
    }

    /// Is it reachable from this machine alone? Names other than `localhost` may mean anything, so they count as not.
    pub fn is_loopback(&self) -> bool {
        match self.ip() {
            Some(ip) => ip.is_loopback(),
            None => self.host.eq_ignore_ascii_case("localhost"),
        }
    }

    /// Does it mean every interface, so that it cannot be told to clients as it stands?
    pub fn is_wildcard(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_unspecified())
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

fn parse_host(host: &str) -> Result<String, InvalidAddress> {
    let invalid = || InvalidAddress::Host { host: host.to_owned() };
    if host.is_empty() {
        return Ok("0.0.0.0".to_owned());
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().map(|ip| ip.to_string()).map_err(|_| invalid());
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if host.bytes().all(legal) { Ok(host.to_owned()) } else { Err(invalid()) }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_people_write_them() {
        for (text, shown, loopback) in [
            ("127.0.0.1:9092", "127.0.0.1:9092", true),
            ("localhost:0", "localhost:0", true),
            ("[::1]:9092", "[::1]:9092", true),
            (":9092", "0.0.0.0:9092", false),
            ("10.0.0.7:1", "10.0.0.7:1", false),
            ("broker-1.example:9092", "broker-1.example:9092", false),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.is_loopback(), loopback, "{text}");
        }
        for text in ["", "9092", "h:", "h:x", "h:70000", "::1:9092", "a b:1", "[zz]:1"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn listeners_read_as_kafka_writes_them() {
        let address = Address::parse_listener("PLAINTEXT://127.0.0.1:9092").unwrap();
        assert_eq!(address, Address::parse_listener("127.0.0.1:9092").unwrap());
        assert!(Address::parse_listener("PLAINTEXT://:9092").unwrap().is_wildcard());
        assert!(matches!(
            Address::parse_listener("SSL://h:1"),
            Err(InvalidAddress::Protocol { .. })
        ));
        assert!(matches!(
            Address::parse_listener("PLAINTEXT://h:1,PLAINTEXT://h:2"),
            Err(InvalidAddress::Several { count: 2 })
        ));
    }
}
