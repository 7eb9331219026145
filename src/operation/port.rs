//! Protocols, ports, the services that people call ports by, and ICMP types.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// A protocol whose ports AWS respects.
///
/// EC2 opens every port for any other protocol number, whatever range is given, so no other can be expressed here.
/// Source: `IpPermission.IpProtocol` in the EC2 API reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP for IPv4.
    Icmp,
    /// ICMP for IPv6.
    Icmpv6,
}

/// A protocol and the ports of it, or the ICMP types.
///
/// INVARIANT: for TCP and UDP `0 <= from <= to <= 65535`; for ICMP `from` is a type or -1 and `to` a code or -1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    protocol: Protocol,
    from: i32,
    to: i32,
}

/// A port or protocol argument that could not be understood.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// A protocol that is not one of the four.
    #[error("protocol `{0}` is not offered: AWS would open every port for it; use tcp, udp, icmp or icmpv6")]
    Protocol(String),
    /// Not a port, range or service.
    #[error("`{written}` is not a port, a range or a known service{}; write it like 22, 8000-8100 or postgres", nearest.map(|n| format!(" (did you mean {n}?)")).unwrap_or_default())]
    NotAPort {
        /// What was written.
        written: String,
        /// The known service that is spelt most like it.
        nearest: Option<&'static str>,
    },
    /// A port above 65535.
    #[error("`{0}` is beyond the highest port, 65535")]
    TooHigh(String),
    /// A range whose end is before its start.
    #[error("the range `{0}` ends before it starts; write the lower port first")]
    Reversed(String),
    /// No port where one is needed.
    #[error("{0} needs a port: write one like 22, 8000-8100 or postgres")]
    Missing(Protocol),
    /// A service of another protocol.
    #[error("{service} is a {meant} service, but the protocol given is {given}")]
    OtherProtocol {
        /// The service's name.
        service: &'static str,
        /// The protocol it runs over.
        meant: Protocol,
        /// The protocol that was asked for.
        given: Protocol,
    },
    /// Not an ICMP type.
    #[error("`{0}` is not an {1} type; write a number from 0 to 255, `echo-request`, or `all`")]
    NotAnIcmpType(String, Protocol),
}

impl From<PortError> for Error {
    fn from(error: PortError) -> Self {
        let (field, reason) = match error {
            PortError::Protocol(_) => ("protocol", "PROTOCOL_INVALID"),
            _ => ("port", "PORT_INVALID"),
        };
        Self::invalid(field, reason, error.to_string())
    }
}

/// Services by name: RFC 6335's registry where it has them, and what people say where it does not. The first name of a
/// port is the one it is shown with.
const SERVICES: [(&str, Protocol, u16); 48] = [
    ("ssh", Protocol::Tcp, 22),
    ("sftp", Protocol::Tcp, 22),
    ("http", Protocol::Tcp, 80),
    ("https", Protocol::Tcp, 443),
    ("postgres", Protocol::Tcp, 5432),
    ("postgresql", Protocol::Tcp, 5432),
    ("mysql", Protocol::Tcp, 3306),
    ("mariadb", Protocol::Tcp, 3306),
    ("mssql", Protocol::Tcp, 1433),
    ("oracle", Protocol::Tcp, 1521),
    ("redis", Protocol::Tcp, 6379),
    ("mongodb", Protocol::Tcp, 27017),
    ("memcached", Protocol::Tcp, 11211),
    ("cassandra", Protocol::Tcp, 9042),
    ("redshift", Protocol::Tcp, 5439),
    ("elasticsearch", Protocol::Tcp, 9200),
    ("opensearch", Protocol::Tcp, 9200),
    ("kafka", Protocol::Tcp, 9092),
    ("amqp", Protocol::Tcp, 5672),
    ("rabbitmq", Protocol::Tcp, 5672),
    ("amqps", Protocol::Tcp, 5671),
    ("mqtt", Protocol::Tcp, 1883),
    ("mqtts", Protocol::Tcp, 8883),
    ("rdp", Protocol::Tcp, 3389),
    ("vnc", Protocol::Tcp, 5900),
    ("winrm", Protocol::Tcp, 5985),
    ("winrms", Protocol::Tcp, 5986),
    ("smb", Protocol::Tcp, 445),
    ("nfs", Protocol::Tcp, 2049),
    ("ftp", Protocol::Tcp, 21),
    ("telnet", Protocol::Tcp, 23),
    ("smtp", Protocol::Tcp, 25),
    ("smtps", Protocol::Tcp, 465),
    ("submission", Protocol::Tcp, 587),
    ("imap", Protocol::Tcp, 143),
    ("imaps", Protocol::Tcp, 993),
    ("pop3", Protocol::Tcp, 110),
    ("pop3s", Protocol::Tcp, 995),
    ("ldap", Protocol::Tcp, 389),
    ("ldaps", Protocol::Tcp, 636),
    ("kubernetes", Protocol::Tcp, 6443),
    ("dns", Protocol::Udp, 53),
    ("ntp", Protocol::Udp, 123),
    ("snmp", Protocol::Udp, 161),
    ("syslog", Protocol::Udp, 514),
    ("isakmp", Protocol::Udp, 500),
    ("openvpn", Protocol::Udp, 1194),
    ("wireguard", Protocol::Udp, 51820),
];

/// ICMP types by the names of IANA's registries.
const ICMP_TYPES: [(&str, Protocol, i32); 8] = [
    ("echo-reply", Protocol::Icmp, 0),
    ("destination-unreachable", Protocol::Icmp, 3),
    ("echo-request", Protocol::Icmp, 8),
    ("time-exceeded", Protocol::Icmp, 11),
    ("destination-unreachable", Protocol::Icmpv6, 1),
    ("packet-too-big", Protocol::Icmpv6, 2),
    ("time-exceeded", Protocol::Icmpv6, 3),
    ("echo-request", Protocol::Icmpv6, 128),
];

// === impl Protocol ===

impl Protocol {
    /// The protocol's name, as EC2 takes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Icmpv6 => "icmpv6",
        }
    }

    /// Whether this is one of the ICMP protocols, whose "ports" are a type and a code.
    pub fn is_icmp(self) -> bool {
        matches!(self, Self::Icmp | Self::Icmpv6)
    }

    /// Reads a protocol as EC2 reports it: by name, or by IANA number.
    pub fn from_aws(text: &str) -> Option<Self> {
        match text {
            "tcp" | "6" => Some(Self::Tcp),
            "udp" | "17" => Some(Self::Udp),
            "icmp" | "1" => Some(Self::Icmp),
            "icmpv6" | "58" => Some(Self::Icmpv6),
            _ => None,
        }
    }
}

impl FromStr for Protocol {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim().to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "icmp" => Ok(Self::Icmp),
            "icmpv6" => Ok(Self::Icmpv6),
            _ => Err(PortError::Protocol(text.to_owned())),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Ports ===

impl Ports {
    /// Reads a port argument and an optional protocol argument. A service's name brings its own protocol.
    pub fn parse(port: Option<&str>, protocol: Option<&str>) -> Result<Self, PortError> {
        let given = protocol.map(str::parse::<Protocol>).transpose()?;
        if let Some(protocol) = given.filter(|p| p.is_icmp()) {
            return Self::parse_icmp(port, protocol);
        }
        let Some(written) = port else { return Err(PortError::Missing(given.unwrap_or(Protocol::Tcp))) };
        let text = written.trim().to_ascii_lowercase();
        if let Some(&(service, meant, number)) = SERVICES.iter().find(|(name, ..)| *name == text) {
            return match given {
                // DNS answers over TCP as well; other services keep to their own protocol.
                Some(given) if given != meant && service != "dns" => {
                    Err(PortError::OtherProtocol { service, meant, given })
                }
                _ => Ok(Self { protocol: given.unwrap_or(meant), from: number.into(), to: number.into() }),
            };
        }
        let (from, to) = text.split_once('-').unwrap_or((&text, &text));
        let (from, to) = (Self::number(from, written)?, Self::number(to, written)?);
        if from > to {
            return Err(PortError::Reversed(written.to_owned()));
        }
        Ok(Self { protocol: given.unwrap_or(Protocol::Tcp), from, to })
    }

    /// What EC2 reports as a rule's protocol and ports, where it is something that this service could have made.
    pub fn from_aws(protocol: Protocol, from: i32, to: i32) -> Self {
        Self { protocol, from, to }
    }

    /// The protocol.
    pub fn protocol(self) -> Protocol {
        self.protocol
    }

    /// The first port, or the ICMP type; -1 for all types.
    pub fn from_port(self) -> i32 {
        self.from
    }

    /// The last port, or the ICMP code; -1 for all codes.
    pub fn to_port(self) -> i32 {
        self.to
    }

    /// Whether every port (or ICMP type and code) of `other` is one of these.
    pub fn contains(self, other: Self) -> bool {
        if self.protocol != other.protocol {
            return false;
        }
        if self.protocol.is_icmp() {
            return self.from == -1 || (self.from == other.from && (self.to == -1 || self.to == other.to));
        }
        self.from <= other.from && other.to <= self.to
    }

    /// Whether the two share a port (or an ICMP type and code).
    pub fn overlaps(self, other: Self) -> bool {
        if self.protocol.is_icmp() {
            return self.contains(other) || other.contains(self);
        }
        self.protocol == other.protocol && self.from <= other.to && other.from <= self.to
    }

    fn parse_icmp(port: Option<&str>, protocol: Protocol) -> Result<Self, PortError> {
        let text = port.map(|p| p.trim().to_ascii_lowercase()).unwrap_or_else(|| "all".to_owned());
        if text == "all" || text == "-1" {
            return Ok(Self { protocol, from: -1, to: -1 });
        }
        let named =
            ICMP_TYPES.iter().find(|(name, of, _)| *name == text && *of == protocol).map(|&(.., number)| number);
        let number = named.or_else(|| text.parse::<u8>().ok().map(i32::from));
        match number {
            Some(number) => Ok(Self { protocol, from: number, to: -1 }),
            None => Err(PortError::NotAnIcmpType(port.unwrap_or_default().to_owned(), protocol)),
        }
    }

    fn number(text: &str, written: &str) -> Result<i32, PortError> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            let nearest = SERVICES
                .iter()
                .map(|&(name, ..)| name)
                .filter(|name| strsim::osa_distance(name, text) <= if text.len() > 4 { 2 } else { 1 })
                .min_by_key(|name| strsim::osa_distance(name, text));
            return Err(PortError::NotAPort {
                written: written.to_owned(),
                nearest: nearest.filter(|_| text.len() > 2),
            });
        }
        text.parse::<u16>().map(i32::from).map_err(|_| PortError::TooHigh(written.to_owned()))
    }
}

/// As people write them: `443 (https)`, `8000-8100`, `echo-request`, `all`.
impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.protocol.is_icmp() {
            let name = ICMP_TYPES
                .iter()
                .find(|&&(_, of, number)| of == self.protocol && number == self.from)
                .map(|&(name, ..)| name);
            return match (self.from, self.to, name) {
                (-1, ..) => f.write_str("all"),
                (_, -1, Some(name)) => f.write_str(name),
                (kind, -1, None) => write!(f, "type {kind}"),
                (kind, code, _) => write!(f, "type {kind} code {code}"),
            };
        }
        if self.from != self.to {
            return write!(f, "{}-{}", self.from, self.to);
        }
        match SERVICES.iter().find(|&&(_, of, number)| of == self.protocol && i32::from(number) == self.from) {
            Some((name, ..)) => write!(f, "{} ({name})", self.from),
            None => write!(f, "{}", self.from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(port: &str, protocol: Option<&str>) -> String {
        Ports::parse(Some(port), protocol).map(|p| format!("{} {p}", p.protocol())).unwrap_or_else(|e| e.to_string())
    }

    #[test]
    fn ports_ranges_and_services() {
        assert_eq!(ports("22", None), "tcp 22 (ssh)");
        assert_eq!(ports("SSH", Some("TCP")), "tcp 22 (ssh)");
        assert_eq!(ports("8000-8100", Some("udp")), "udp 8000-8100");
        assert_eq!(ports("wireguard", None), "udp 51820 (wireguard)");
        assert_eq!(ports("dns", Some("tcp")), "tcp 53");
        assert_eq!(ports("0-65535", None), "tcp 0-65535");
    }

    #[test]
    fn icmp_types() {
        assert_eq!(ports("echo-request", Some("icmp")), "icmp echo-request");
        assert_eq!(ports("128", Some("icmpv6")), "icmpv6 echo-request");
        assert_eq!(ports("all", Some("icmp")), "icmp all");
        assert_eq!(Ports::parse(None, Some("icmp")).expect("all types").from_port(), -1);
        assert!(ports("256", Some("icmp")).contains("not an icmp type"));
        assert!(ports("-2", Some("icmp")).contains("not an icmp type"));
    }

    #[test]
    fn what_is_no_port_is_refused() {
        assert!(ports("shh", None).contains("did you mean ssh?"));
        assert!(ports("65536", None).contains("highest port"));
        assert!(ports("99999999999999999999", None).contains("highest port"));
        assert!(ports("100-22", None).contains("lower port first"));
        assert!(ports("", None).contains("not a port"));
        assert!(ports("-1", None).contains("not a port"));
        assert!(ports("22-", None).contains("not a port"));
        assert!(ports("+22", None).contains("not a port"));
        assert!(ports("22", Some("-1")).contains("every port"));
        assert!(ports("22", Some("47")).contains("every port"));
        assert!(ports("ssh", Some("udp")).contains("tcp service"));
        assert!(Ports::parse(None, None).expect_err("needs a port").to_string().contains("needs a port"));
    }

    #[test]
    fn containment() {
        let range = Ports::parse(Some("20-30"), None).expect("parses");
        let ssh = Ports::parse(Some("ssh"), None).expect("parses");
        assert!(range.contains(ssh) && !ssh.contains(range) && ssh.overlaps(range));
        let all = Ports::parse(Some("all"), Some("icmp")).expect("parses");
        let echo = Ports::parse(Some("8"), Some("icmp")).expect("parses");
        assert!(all.contains(echo) && !echo.contains(all) && !all.contains(ssh));
    }
}
