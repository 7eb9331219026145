//! What a caller may write for an address, and the canonical block it means.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::error::Error;

/// An IPv4 or IPv6 block in canonical form: its host bits are zero.
///
/// AWS clears host bits by itself and takes two spellings of one block for one rule, so only the canonical form is
/// ever compared or sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Block(IpNet);

/// An address argument as written: a block, or the caller's own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// A block, and whether its host bits had to be cleared.
    Block {
        /// The canonical block.
        block: Block,
        /// The address was written with host bits set.
        canonicalised: bool,
    },
    /// The word `current`.
    Current,
}

/// An address that could not be understood.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Not an address or block at all.
    #[error(
        "`{0}` is not an IPv4 or IPv6 address or CIDR block; write it like 203.0.113.7, 203.0.113.0/28 or 2001:db8::7"
    )]
    NotAnAddress(String),
    /// A host name, a URL, or an address with a port.
    #[error("`{0}` names a host or a port; give the IP address itself, like 203.0.113.7, and the port apart")]
    NotOnlyAnAddress(String),
    /// An IPv4-mapped IPv6 address.
    #[error("`{written}` is an IPv4 address in IPv6 clothing, which would never match; write {meant}")]
    Mapped {
        /// What was written.
        written: String,
        /// The IPv4 form.
        meant: String,
    },
    /// An IPv6 address with a zone.
    #[error("`{0}` carries a zone (`%…`), which means something on one machine only; leave it out")]
    Zone(String),
    /// `current`, where the caller's address is not known.
    #[error("`current` cannot be used here: the address you call from is not known to the service; give it in figures")]
    CurrentUnknown,
}

impl From<AddressError> for Error {
    fn from(error: AddressError) -> Self {
        let reason = match error {
            AddressError::CurrentUnknown => "CURRENT_ADDRESS_UNKNOWN",
            _ => "ADDRESS_INVALID",
        };
        Self::invalid("address", reason, error.to_string())
    }
}

// === impl Address ===

impl Address {
    /// The block that is meant, given the address that the caller calls from.
    pub fn resolve(self, caller: Option<IpAddr>) -> Result<Block, AddressError> {
        match self {
            Self::Block { block, .. } => Ok(block),
            Self::Current => caller.map(Block::host).ok_or(AddressError::CurrentUnknown),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(written: &str) -> Result<Self, Self::Err> {
        let text = written.trim();
        if text.eq_ignore_ascii_case("current") {
            return Ok(Self::Current);
        }
        if text.contains('%') {
            return Err(AddressError::Zone(written.to_owned()));
        }
        let net = match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
            (Ok(net), _) => net,
            (_, Ok(address)) => IpNet::from(address),
            _ if text.contains("://")
                || text.starts_with('[')
                || text.chars().any(|c| c.is_ascii_alphabetic() && !c.is_ascii_hexdigit()) =>
            {
                return Err(AddressError::NotOnlyAnAddress(written.to_owned()));
            }
            _ if text.matches(':').count() == 1
                && text.split(':').next().is_some_and(|host| host.parse::<Ipv4Addr>().is_ok()) =>
            {
                return Err(AddressError::NotOnlyAnAddress(written.to_owned()));
            }
            _ => return Err(AddressError::NotAnAddress(written.to_owned())),
        };
        if let IpNet::V6(v6) = net
            && v6.prefix_len() >= 96
            && let Some(v4) = v6.addr().to_ipv4_mapped()
        {
            let meant = match v6.prefix_len() - 96 {
                32 => v4.to_string(),
                prefix => format!("{v4}/{prefix}"),
            };
            return Err(AddressError::Mapped { written: written.to_owned(), meant });
        }
        Ok(Self::Block { block: Block(net.trunc()), canonicalised: net != net.trunc() })
    }
}

// === impl Block ===

impl Block {
    /// The block of exactly one address. An IPv4-mapped address, as a dual-stack socket reports it, becomes IPv4.
    pub fn host(address: IpAddr) -> Self {
        Self(IpNet::from(address.to_canonical()))
    }

    /// Reads a block as AWS reports it; host bits are cleared.
    pub fn from_aws(cidr: &str) -> Option<Self> {
        cidr.parse::<IpNet>().ok().map(|net| Self(net.trunc()))
    }

    /// The block as a network.
    pub fn net(self) -> IpNet {
        self.0
    }

    /// The number of leading bits that are fixed.
    pub fn prefix(self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether this is an IPv6 block.
    pub fn is_ipv6(self) -> bool {
        matches!(self.0, IpNet::V6(_))
    }

    /// Whether every address of `other` lies in this block.
    pub fn contains(self, other: Self) -> bool {
        self.0.contains(&other.0)
    }

    /// Whether the blocks share an address.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other) || other.contains(self)
    }

    /// Whether the whole block can be reached over the public internet: it lies outside private, shared and
    /// documentation space, and outside what [`Block::is_special`] names.
    ///
    /// Source: the IANA special-purpose address registries (RFC 6890).
    pub fn is_public(self) -> bool {
        !self.is_special() && !self.overlaps_any(&PRIVATE_V4, &PRIVATE_V6)
    }

    /// Whether the block holds an address that no caller has: unspecified, loopback, link-local, multicast, reserved
    /// or benchmarking space, or an IPv6 form that embeds an IPv4 address (mapped, compatible, NAT64, 6to4, Teredo).
    ///
    /// Source: the IANA special-purpose address registries (RFC 6890); RFC 4291, 6052, 3056, 4380.
    pub fn is_special(self) -> bool {
        self.overlaps_any(&SPECIAL_V4, &SPECIAL_V6)
    }

    fn overlaps_any(self, v4: &[(Ipv4Addr, u8)], v6: &[(Ipv6Addr, u8)]) -> bool {
        let v4 = v4.iter().map(|&(address, prefix)| net_v4(address, prefix));
        let v6 = v6.iter().map(|&(address, prefix)| net_v6(address, prefix));
        v4.chain(v6).any(|space| Self(space).overlaps(self))
    }
}

const PRIVATE_V4: [(Ipv4Addr, u8); 7] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
];

const PRIVATE_V6: [(Ipv6Addr, u8); 3] = [
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

const SPECIAL_V4: [(Ipv4Addr, u8); 8] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

const SPECIAL_V6: [(Ipv6Addr, u8); 11] = [
    (Ipv6Addr::UNSPECIFIED, 96),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x5f00, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

fn net_v4(address: Ipv4Addr, prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(address, prefix))
}

fn net_v6(address: Ipv6Addr, prefix: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(address, prefix))
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Block {
        match text.parse() {
            Ok(Address::Block { block, .. }) => block,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn host_bits_are_cleared_and_told() {
        let Ok(Address::Block { block, canonicalised }) = "203.0.113.7/24".parse() else { panic!() };
        assert_eq!(block.to_string(), "203.0.113.0/24");
        assert!(canonicalised);
        assert_eq!(block_text("2001:DB8:0::7"), "2001:db8::7/128");
        assert_eq!(block_text(" 203.0.113.7 "), "203.0.113.7/32");
    }

    fn block_text(text: &str) -> String {
        block(text).to_string()
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_would_be() {
        for (text, part) in [
            ("", "not an IPv4"),
            ("203.0.113", "not an IPv4"),
            ("203.0.113.7/33", "not an IPv4"),
            ("203.0.113.07", "not an IPv4"),
            ("0x7f.1", "names a host"),
            ("db.example.com", "names a host"),
            ("https://203.0.113.7/", "names a host"),
            ("203.0.113.7:22", "names a host"),
            ("[2001:db8::7]:22", "names a host"),
            ("fe80::1%eth0", "zone"),
            ("::ffff:203.0.113.7", "write 203.0.113.7"),
            ("::ffff:203.0.113.0/120", "write 203.0.113.0/24"),
        ] {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn current_needs_a_known_caller() {
        let address: Address = "Current".parse().expect("parses");
        assert!(matches!(address.resolve(None), Err(AddressError::CurrentUnknown)));
        let mapped: IpAddr = "::ffff:203.0.113.9".parse().expect("parses");
        assert_eq!(address.resolve(Some(mapped)).expect("known").to_string(), "203.0.113.9/32");
    }

    #[test]
    fn public_means_wholly_public() {
        assert!(block("8.8.8.8").is_public());
        assert!(block("2600::/32").is_public());
        for special in
            ["::/56", "::1/64", "64:ff9b::7f00:1", "2002:7f00:1::", "::7f00:1", "::fffe:0:0/95", "fec0::1", "100::1"]
        {
            assert!(block(special).is_special(), "{special}");
        }
        for ordinary in ["203.0.113.7", "10.1.2.3", "2600::/56", "2001:db8::1", "fd00::1"] {
            assert!(!block(ordinary).is_special(), "{ordinary}");
        }
        for special in ["0.0.0.0/0", "10.1.2.3", "169.254.169.254", "::1", "fd00::1", "::/0", "100.64.0.1"] {
            assert!(!block(special).is_public(), "{special}");
        }
    }
}
