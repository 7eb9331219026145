//! The address that a client calls from, past the proxies that are declared and no others.

use std::net::{IpAddr, SocketAddr};

use ::http::HeaderMap;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

/// The header in which the declared proxies say whom they speak for. Only one is ever read: a proxy that sets one of
/// the two passes the other on as a client wrote it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedBy {
    /// `X-Forwarded-For`, as most load balancers set it.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// The address that a request came from, if that is known, as it was established once.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientAddress(pub(super) Option<IpAddr>);

/// Walks back from the connection through declared proxies to the first address that is not one of them.
///
/// Every hop appends, so the list is read from its end, and an entry that cannot be read ends the walk: what is before
/// it is hearsay. None means that the address is not known.
pub(super) fn client_address(
    remote: Option<SocketAddr>,
    headers: &HeaderMap,
    proxies: &[IpNet],
    by: ForwardedBy,
) -> Option<IpAddr> {
    let remote = remote?.ip().to_canonical();
    if !is_proxy(remote, proxies) {
        return Some(remote);
    }
    let hops = match by {
        ForwardedBy::XForwardedFor => entries(headers, "x-forwarded-for", parse_address),
        ForwardedBy::Forwarded => entries(headers, "forwarded", forwarded_for),
    };
    // A walk that ends on a proxy has not found a client: the proxy's own address would open a door to all behind it.
    hops.into_iter().rev().find(|hop| !hop.is_some_and(|address| is_proxy(address, proxies))).flatten()
}

/// Whether an address is a declared proxy's.
pub(super) fn is_proxy(address: IpAddr, proxies: &[IpNet]) -> bool {
    proxies.iter().any(|proxy| proxy.contains(&address.to_canonical()))
}

fn entries(headers: &HeaderMap, name: &str, read: fn(&str) -> Option<IpAddr>) -> Vec<Option<IpAddr>> {
    let values = headers.get_all(name).iter();
    values
        .flat_map(|value| value.to_str().unwrap_or("?").split(',').map(|entry| read(entry.trim())).collect::<Vec<_>>())
        .collect()
}

/// The `for` parameter of one `Forwarded` element.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let pair = element
        .split(';')
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| name.eq_ignore_ascii_case("for"));
    parse_address(pair?.1.trim_matches('"'))
}

/// An address, with or without a port.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(remote: &str, headers: &[(&'static str, &str)], by: ForwardedBy) -> Option<String> {
        let proxies = ["10.0.0.0/8".parse().expect("parses"), "fd00::/8".parse().expect("parses")];
        let map = headers
            .iter()
            .map(|(name, value)| (::http::HeaderName::from_static(name), value.parse().expect("parses")))
            .collect();
        client_address(Some(remote.parse().expect("parses")), &map, &proxies, by).map(|address| address.to_string())
    }

    fn by_x(remote: &str, headers: &[(&'static str, &str)]) -> Option<String> {
        seen(remote, headers, ForwardedBy::XForwardedFor)
    }

    #[test]
    fn only_declared_proxies_are_believed() {
        let forged = [("x-forwarded-for", "198.51.100.1")];
        assert_eq!(by_x("203.0.113.7:1", &forged).as_deref(), Some("203.0.113.7"));
        assert_eq!(by_x("10.0.0.1:1", &forged).as_deref(), Some("198.51.100.1"));
        assert_eq!(by_x("[::ffff:10.0.0.1]:1", &forged).as_deref(), Some("198.51.100.1"));
    }

    #[test]
    fn the_list_is_read_from_its_end() {
        let one = [("x-forwarded-for", "1.1.1.1, 203.0.113.7, 10.0.0.2")];
        assert_eq!(by_x("10.0.0.1:1", &one).as_deref(), Some("203.0.113.7"));
        let two = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "203.0.113.7")];
        assert_eq!(by_x("10.0.0.1:1", &two).as_deref(), Some("203.0.113.7"));
        assert_eq!(by_x("10.0.0.1:1", &[("x-forwarded-for", "1.1.1.1, unknown")]), None);
        assert_eq!(by_x("10.0.0.1:1", &[]), None);
        assert_eq!(by_x("10.0.0.1:1", &[("x-forwarded-for", "10.0.0.3, 10.0.0.2")]), None);
    }

    #[test]
    fn the_other_header_is_a_client_s_own_invention() {
        let both =
            [("forwarded", r#"for=1.1.1.1, For="[2001:db8::7]:443";proto=https"#), ("x-forwarded-for", "9.9.9.9")];
        assert_eq!(by_x("10.0.0.1:1", &both).as_deref(), Some("9.9.9.9"));
        assert_eq!(seen("10.0.0.1:1", &both, ForwardedBy::Forwarded).as_deref(), Some("2001:db8::7"));
        assert_eq!(seen("[fd00::1]:1", &[("forwarded", "for=_hidden")], ForwardedBy::Forwarded), None);
    }
}
