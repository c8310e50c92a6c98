//! What becomes of connections.

use prometheus::Registry;
use tokio::{io::AsyncReadExt, net::TcpListener, task::LocalSet};

use super::*;
use crate::{counters::ServiceCells, metrics::GatewayMetrics};

/// An endpoint that is a name.
fn named() -> Rc<LocalEndpoint> {
    let metrics = GatewayMetrics::new(&Registry::new()).unwrap();
    let shared = Arc::new(SharedEndpoint::for_test("orders.invalid:80"));
    let service = LocalService::new(ServiceCells::new(&metrics, "s"));
    let cells = EndpointCells::new(&metrics, "s", "e");
    Rc::new(LocalEndpoint::new(shared, cells, service))
}

/// A request's lease on a new connection.
async fn busy(endpoint: &Rc<LocalEndpoint>) -> Lease {
    let Seat::New(slot) = endpoint.seat(usize::MAX, true) else {
        panic!("a fresh seat is new");
    };
    let connection = slot
        .connect(endpoint, Protocol::Http1, Duration::from_secs(20))
        .await
        .unwrap();
    let mut lease = Lease::new(Rc::clone(endpoint), Rc::new(Progress::new(true)));
    lease.hold(connection).ready().await.unwrap();
    lease
}

#[tokio::test]
async fn connections_to_an_address_that_is_gone_are_not_kept() {
    let run = async {
        let before = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let after = TcpListener::bind("[::1]:0").await.unwrap();
        let (old, new) = (before.local_addr().unwrap(), after.local_addr().unwrap());
        let endpoint = named();
        endpoint.shared.set_addresses(vec![old]);
        let (idle, lease) = (busy(&endpoint).await, busy(&endpoint).await);
        idle.give_back(None);
        assert_eq!((endpoint.idle.borrow().len(), endpoint.under_way()), (1, 1));
        endpoint.shared.set_addresses(vec![new]);
        endpoint.sweep(Instant::now());
        assert_eq!(endpoint.idle.borrow().len(), 0, "the idle one is closed");
        lease.give_back(None);
        assert_eq!(endpoint.idle.borrow().len(), 0, "the busy one is not kept");
        let lease = busy(&endpoint).await;
        lease.give_back(None);
        assert!(
            matches!(endpoint.seat(usize::MAX, false), Seat::Kept(connection) if connection.lead.peer == new)
        );
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn the_connections_of_an_endpoint_that_is_gone_are_closed() {
    let run = async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = named();
        endpoint
            .shared
            .set_addresses(vec![listener.local_addr().unwrap()]);
        let (idle, lease) = (busy(&endpoint).await, busy(&endpoint).await);
        idle.give_back(None);
        let open = Rc::clone(&endpoint.open);
        assert_eq!(open.count.get(), 2);
        drop(endpoint);
        lease.give_back(None);
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
        }
        assert_eq!(open.count.get(), 0);
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test]
async fn an_address_that_refuses_is_followed_by_the_next() {
    let run = async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // Nothing listens on port 1.
        let endpoint = named();
        endpoint.shared.set_addresses(vec![
            "127.0.0.1:1".parse().unwrap(),
            "[::1]:1".parse().unwrap(),
            address,
        ]);
        for _ in 0..6 {
            let lease = busy(&endpoint).await;
            assert_eq!(
                lease.connection.as_ref().map(|connection| connection.lead.peer),
                Some(address)
            );
        }
    };
    LocalSet::new().run_until(run).await;
}
