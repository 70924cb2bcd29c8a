//! How many connections the webhook server has at a time, in all and from one address. Tenants' pods can reach it, and
//! none of them may take it away from the API servers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// So many connections from one address. An API server keeps one over HTTP/2, and a few over HTTP/1.1; behind address
/// translation several look like one.
const PER_ADDRESS: usize = 32;
/// So many connections in all.
const IN_ALL: usize = 256;

/// Who is connected.
#[derive(Debug, Clone, Default)]
pub struct Guests {
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Guests {
    /// A place for a connection from `address`, if there is one.
    pub fn take(&self, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let own = taken.get(&address).copied().unwrap_or(0);
        // The self-check comes from here and must not fail because others fill the house.
        if !address.is_loopback() && all >= IN_ALL || own >= PER_ADDRESS {
            return None;
        }
        taken.insert(address, own + 1);
        Some(Place { guests: self.clone(), address })
    }
}

/// One of the places; free again when dropped.
#[derive(Debug)]
pub struct Place {
    guests: Guests,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.guests.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_places_and_they_come_free() {
        let guests = Guests::default();
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        let mut places = Vec::new();
        while let Some(place) = guests.take(address(1)) {
            places.push(place);
        }
        assert_eq!(places.len(), PER_ADDRESS);
        for n in 2..=255 {
            while let Some(place) = guests.take(address(n)) {
                places.push(place);
            }
        }
        assert_eq!(places.len(), IN_ALL);
        assert!(guests.take(IpAddr::from([127, 0, 0, 1])).is_some(), "the self-check");
        drop(places);
        assert!(guests.taken.lock().unwrap().is_empty());
    }
}
