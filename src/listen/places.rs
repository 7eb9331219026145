//! How many connections each address may have open.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;

/// The most connections of one address, unless configured otherwise.
pub const PER_ADDRESS: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// How many connections each address may have open at once. IPv6 addresses count by their /64: that is what one host is
/// given (RFC 6177), and it may call from any address in it.
#[derive(Clone, Debug)]
pub struct PerAddress {
    /// The most.
    pub most: NonZeroUsize,
    /// Those who are not counted: proxies, which carry everybody's connections.
    pub uncounted: Vec<IpNet>,
}

impl Default for PerAddress {
    fn default() -> Self {
        Self { most: PER_ADDRESS, uncounted: Vec::new() }
    }
}

/// The connections that are open, by address.
#[derive(Debug)]
pub(super) struct Places {
    bound: PerAddress,
    open: Mutex<HashMap<IpAddr, Open>>,
}

#[derive(Debug, Default)]
struct Open {
    count: usize,
    refused: bool,
}

/// One connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Option<(Arc<Places>, IpAddr)>);

impl Places {
    pub(super) fn new(bound: PerAddress) -> Arc<Self> {
        Arc::new(Self { bound, open: Mutex::default() })
    }

    /// A place for a connection from that address; none when all of its are taken.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        if self.bound.uncounted.iter().any(|network| network.contains(&address)) {
            return Some(Place(None));
        }
        let key = key(address);
        let mut all = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = all.entry(key).or_default();
        if open.count >= self.bound.most.get() {
            // Said once, until all of the address's connections are gone: a flood must not flood the log.
            if !std::mem::replace(&mut open.refused, true) {
                tracing::warn!(client.address = %address, most = self.bound.most, "an address has all the connections that it may have; further ones are closed");
            }
            return None;
        }
        open.count += 1;
        Some(Place(Some((Arc::clone(self), key))))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((places, key)) = self.0.take() else { return };
        let mut all = places.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = all.get_mut(&key) {
            open.count = open.count.saturating_sub(1);
            if open.count == 0 {
                all.remove(&key);
            }
        }
    }
}

/// An IPv4 address as it is, an IPv6 address's /64.
fn key(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(most: usize, uncounted: &str) -> Arc<Places> {
        let uncounted = vec![uncounted.parse().expect("a network")];
        Places::new(PerAddress { most: NonZeroUsize::new(most).expect("some"), uncounted })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn each_address_has_its_own() {
        let places = places(2, "10.0.0.0/8");
        let held = [places.take(address("192.0.2.1")), places.take(address("::ffff:192.0.2.1"))];
        assert!(held.iter().all(Option::is_some));
        assert!(places.take(address("192.0.2.1")).is_none(), "mapped addresses are the same");
        assert!(places.take(address("192.0.2.2")).is_some());
        drop(held);
        assert!(places.take(address("192.0.2.1")).is_some());
        assert!(places.open.lock().expect("sound").is_empty(), "nothing is kept of who is gone");
    }

    #[test]
    fn ipv6_counts_by_64_and_proxies_not_at_all() {
        let places = places(1, "10.0.0.0/8");
        let held = places.take(address("2001:db8:0:1::1"));
        assert!(held.is_some() && places.take(address("2001:db8:0:1:ffff::2")).is_none());
        assert!(places.take(address("2001:db8:0:2::1")).is_some());
        let proxied: Vec<_> = (0..5).map(|_| places.take(address("10.1.2.3"))).collect();
        assert!(proxied.iter().all(Option::is_some));
    }
}
