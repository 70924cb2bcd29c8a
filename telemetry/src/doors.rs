//! Who gets in to the admin server, how many at a time and for how long. Tenants' pods may reach its address, and
//! none of them may take the server away from the kubelet's probes.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;

/// So many connections from one address.
const PER_ADDRESS: usize = 8;
/// So many connections in all.
const IN_ALL: usize = 64;
/// No connection lives longer, idle or not; probes and scrapes take milliseconds and connect anew.
const LIFETIME: Duration = Duration::from_secs(30);

type Guests = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// A listener that turns away whoever has too many connections.
pub(crate) struct Doors {
    listener: TcpListener,
    guests: Guests,
}

impl Doors {
    pub(crate) fn new(listener: TcpListener) -> Self {
        Self { listener, guests: Guests::default() }
    }
}

impl Listener for Doors {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guest, SocketAddr) {
        loop {
            // The inner listener waits a moment after an error, when there are no descriptors left for example.
            let (stream, peer) = Listener::accept(&mut self.listener).await;
            if let Some(place) = Place::take(&self.guests, peer.ip().to_canonical()) {
                let until = Box::pin(tokio::time::sleep(LIFETIME));
                return (Guest { stream, until, _place: place }, peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One of the places; free again when dropped.
struct Place {
    guests: Guests,
    address: IpAddr,
}

impl Place {
    fn take(guests: &Guests, address: IpAddr) -> Option<Self> {
        let mut taken = guests.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let own = taken.get(&address).copied().unwrap_or(0);
        if all >= IN_ALL || own >= PER_ADDRESS {
            return None;
        }
        taken.insert(address, own + 1);
        Some(Self { guests: Arc::clone(guests), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

/// A connection that ends by itself.
pub(crate) struct Guest {
    stream: TcpStream,
    until: Pin<Box<Sleep>>,
    _place: Place,
}

impl Guest {
    fn overdue(&mut self, context: &mut Context<'_>) -> bool {
        self.until.as_mut().poll(context).is_ready()
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the connection was open for too long")
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.overdue(context) {
            return Poll::Ready(Err(too_long()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.overdue(context) {
            return Poll::Ready(Err(too_long()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    /// Whether from this very network namespace: over loopback, or from the address that it went to.
    pub(crate) at_home: bool,
}

impl Connected<IncomingStream<'_, Doors>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Doors>) -> Self {
        let peer = stream.remote_addr().ip().to_canonical();
        let own = stream.io().stream.local_addr().map(|address| address.ip().to_canonical());
        Self { at_home: peer.is_loopback() || own.is_ok_and(|own| own == peer) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_places_and_they_come_free() {
        let guests = Guests::default();
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        let mut places: Vec<Place> = Vec::new();
        while let Some(place) = Place::take(&guests, address(1)) {
            places.push(place);
        }
        assert_eq!(places.len(), PER_ADDRESS);
        for n in 2..=255 {
            while let Some(place) = Place::take(&guests, address(n)) {
                places.push(place);
            }
        }
        assert_eq!(places.len(), IN_ALL);
        drop(places);
        assert!(guests.lock().unwrap().is_empty());
        assert!(Place::take(&guests, address(1)).is_some());
    }
}
