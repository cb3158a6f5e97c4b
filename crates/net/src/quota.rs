//! How much one model or one client may have at a time of what all have together.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bits of an IPv6 address that say which network it is in: whoever has one has all addresses in it.
const NETWORK_BITS: u32 = 64;

/// Whom an address stands for where clients are counted.
pub(crate) fn client_at(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - NETWORK_BITS)))),
    }
}

/// So many for each key, without end if there is no such number. Only keys that have something are remembered.
pub(crate) struct Quota<K>(Option<Arc<Bounded<K>>>);

struct Bounded<K> {
    most: usize,
    taken: Mutex<HashMap<K, usize>>,
}

/// The key has as many as it may.
#[derive(Debug)]
pub(crate) struct Full;

impl<K: Clone + Eq + Hash> Quota<K> {
    /// `None` sets no bound.
    pub(crate) fn new(most: Option<usize>) -> Self {
        Self(most.map(|most| Arc::new(Bounded { most, taken: Mutex::default() })))
    }

    /// One more for a key, which is asked for only where there is a bound.
    pub(crate) fn take(&self, key: impl FnOnce() -> K) -> Result<Turn<K>, Full> {
        let Some(bounded) = &self.0 else { return Ok(Turn(None)) };
        let key = key();
        let mut taken = bounded.taken();
        match taken.get_mut(&key) {
            Some(count) if *count >= bounded.most => return Err(Full),
            Some(count) => *count += 1,
            None => {
                taken.insert(key.clone(), 1);
            }
        }
        drop(taken);
        Ok(Turn(Some((Arc::clone(bounded), key))))
    }
}

impl<K> Bounded<K> {
    fn taken(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of what a key may have; given back when dropped.
pub(crate) struct Turn<K: Eq + Hash>(Option<(Arc<Bounded<K>>, K)>);

impl<K: Eq + Hash> Drop for Turn<K> {
    fn drop(&mut self) {
        let Some((bounded, key)) = &self.0 else { return };
        let mut taken = bounded.taken();
        match taken.get_mut(key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                taken.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_and_those_without_anything_are_forgotten() {
        let quota = Quota::new(Some(2));
        let first = quota.take(|| "a").expect("there is room");
        let second = quota.take(|| "a").expect("there is room");
        assert!(quota.take(|| "a").is_err());
        let other = quota.take(|| "b").expect("it is another one");
        drop(first);
        let third = quota.take(|| "a").expect("one was given back");
        assert!(quota.take(|| "a").is_err());
        drop((second, third, other));
        assert!(quota.0.expect("bounded").taken().is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let same = |one: &str, other: &str| {
            let client = |address: &str| client_at(address.parse().expect("an address"));
            client(one) == client(other)
        };
        assert!(same("2001:db8:0:1::1", "2001:db8:0:1:ffff::2"));
        assert!(!same("2001:db8:0:1::1", "2001:db8:0:2::1"));
        assert!(!same("10.0.0.1", "10.0.0.2"));
        assert!(same("10.0.0.1", "::ffff:10.0.0.1"));
        assert!(!same("::ffff:10.0.0.1", "::ffff:10.0.0.2"));
    }

    #[test]
    fn without_a_bound_nothing_is_counted() {
        let quota = Quota::new(None);
        let turns: Vec<_> = (0..100).map(|_| quota.take(|| unreachable!("nobody asks who"))).collect();
        assert!(turns.iter().all(|turn: &Result<Turn<u8>, Full>| turn.as_ref().is_ok_and(|turn| turn.0.is_none())));
    }
}
