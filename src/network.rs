//! How wide a network may be that is trusted for something.

use ipnet::IpNet;

/// What [`too_wide`] lets through, in words.
pub const WIDEST: &str = "a network may be at most a /8 of IPv4 or a /16 of IPv6";

/// The first of the networks that is so wide that it keeps hardly anybody out, if one is. A /8 is the widest private
/// network (10.0.0.0/8, RFC 1918, section 3); a /16 of IPv6 holds more than any registry assigns to one holder.
pub fn too_wide(networks: &[IpNet]) -> Option<IpNet> {
    let is_wide = |network: &&IpNet| match network {
        IpNet::V4(network) => network.prefix_len() < 8,
        IpNet::V6(network) => network.prefix_len() < 16,
    };
    networks.iter().find(is_wide).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_bounded_by_family() {
        let wide = |text: &str| too_wide(&[text.parse().expect("a network")]).is_some();
        for text in ["0.0.0.0/0", "128.0.0.0/1", "10.0.0.0/7", "::/0", "2000::/3", "2000::/15"] {
            assert!(wide(text), "{text}");
        }
        for text in ["10.0.0.0/8", "127.0.0.0/8", "203.0.113.7/32", "2001::/16", "fd00::/16", "::1/128"] {
            assert!(!wide(text), "{text}");
        }
    }
}
